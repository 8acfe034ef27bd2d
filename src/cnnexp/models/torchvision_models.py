"""Any classifier of ``torchvision.models``, by name, for images of any number of channels."""

from __future__ import annotations

from typing import Any

from torch import nn


def torchvision_model(
    name: str, in_channels: int = 3, num_classes: int = 10, **arguments: Any
) -> nn.Module:
    """The network ``torchvision.models.<name>`` without trained weights.

    Where ``in_channels`` is not 3, the first convolution is replaced by one that takes that many channels.

    Args:
        name: A name that ``torchvision.models.list_models(module=torchvision.models)`` lists.
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        **arguments: Further arguments of the model's own builder.

    Raises:
        ValueError: The name is unknown.
    """
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(f"unknown torchvision model '{name}'; known: {', '.join(known)}")
    if name in ("googlenet", "inception_v3"):  # by default these return two results and warn
        arguments = {"aux_logits": False, "init_weights": True, **arguments}
    network = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if in_channels != 3:
        path, conv = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
        parent, _, child = path.rpartition(".")
        names = ("out_channels", "kernel_size", "stride", "padding", "dilation")
        settings: dict[str, Any] = {name: getattr(conv, name) for name in names}
        replaced = nn.Conv2d(in_channels, **settings, bias=conv.bias is not None)
        setattr(network.get_submodule(parent), child, replaced)
    return network
