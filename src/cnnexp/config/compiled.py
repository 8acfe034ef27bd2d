"""The part ``compile`` of a config: what torch.compile cannot be part of is refused, with the reason."""

from __future__ import annotations

from cnnexp.config.errors import ConfigError
from cnnexp.config.schema import TrainConfig

__all__ = ["check_compile"]


def check_compile(typed: TrainConfig) -> None:
    """See whether all that takes part in the training goes with torch.compile.

    Raises:
        ConfigError: Something does not.
    """
    name = typed.compile.name
    if name == "off":
        return
    accelerator = typed.accelerator.name
    refused = {
        "privacy: it clips the gradient of each sample, by hooks at the layers, which a compiled network "
        "does not call": typed.privacy.private,
        "accelerator=fsdp: the weights are in parts": accelerator == "fsdp",
        f"accelerator={accelerator}: the ranks exchange gradients within the backward pass, which is not "
        "compiled in parts": accelerator in ("ddp", "ddp_cpu"),
        "debug=profile: it times each layer, and a compiled network has none": typed.debug.name
        == "profile",
    }
    for reason, applies in refused.items():
        if applies:
            raise ConfigError(f"compile={name}: does not go with {reason}; use compile=off")
