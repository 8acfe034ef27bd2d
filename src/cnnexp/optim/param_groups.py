"""Sort the parameters of a network into groups with settings of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

_FROZEN = "keeps_statistics"  # the mark of a normalisation whose statistics stay as they are
NO_DECAY = " (no decay)"  # the end of the name of a group without weight decay


def freeze(network: nn.Module, layers: Sequence[str]) -> None:
    """Exclude the parameters of ``layers`` (names of modules or parameters) from training.

    A normalisation with running statistics is frozen with them where it lies in one of ``layers``, or
    all its parameters do: it is put into evaluation mode, normalises by the statistics that it has, and
    leaves them as they are. :func:`keep_frozen` keeps it so when the network is put into training mode.

    Raises:
        ValueError: A name matches no parameter.

    Examples:
        >>> from torch import nn
        >>> from cnnexp.optim import freeze
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> freeze(network, ["0", "1.bias"])
        >>> [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        ['1.weight']
    """
    for layer in layers:
        for parameter in _of(network, layer, "parameters.frozen").values():
            parameter.requires_grad_(False)
    for name, module in network.named_modules():
        if getattr(module, "running_mean", None) is None:
            continue
        own = list(module.parameters(recurse=False))
        inside = any(_within(name, layer) for layer in layers)
        if inside or (own and layers and not any(p.requires_grad for p in own)):
            setattr(module, _FROZEN, True)
    keep_frozen(network)


def keep_frozen(network: nn.Module) -> None:
    """Put the normalisations that :func:`freeze` froze back into evaluation mode.

    Examples:
        >>> from torch import nn
        >>> from cnnexp.optim import freeze, keep_frozen
        >>> network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
        >>> freeze(network, ["0"])
        >>> network.train()[0].training
        True
        >>> keep_frozen(network)
        >>> [norm.training for norm in network]
        [False, True]
    """
    for module in network.modules():
        if getattr(module, _FROZEN, False):
            module.eval()


def param_groups(
    network: nn.Module,
    *,
    lr: float | None = None,
    lr_scale: Mapping[str, float] | None = None,
    decay_all: bool = False,
) -> list[dict[str, Any]]:
    """Each trainable parameter of ``network`` in exactly one group, as optimisers take them.

    Weight decay is for weights: biases and the scales of norms, all parameters with fewer than
    two axes, are in groups with ``weight_decay`` 0 (see ``cnnexp.regularization.penalised_weights``
    for why). Parameters keep their order within a group.

    Args:
        network: The network whose parameters are sorted.
        lr: The optimiser's learning rate, which ``lr_scale`` multiplies; needed only for that.
        lr_scale: Factors ≥ 0 of the learning rate by name of a module or parameter; of two names
            that match, the longer counts.
        decay_all: Apply weight decay to biases and norms, too.

    Returns:
        Groups with ``params``, ``name`` and what differs from the optimiser's defaults:
        ``weight_decay``, ``lr``.

    Raises:
        ValueError: A name matches no parameter, a factor is negative, or there is no ``lr`` to scale.

    Examples:
        >>> from torch import nn
        >>> from cnnexp.optim import param_groups
        >>> groups = param_groups(nn.Linear(4, 3))
        >>> [(group["name"], group.get("weight_decay")) for group in groups]
        [('network', None), ('network (no decay)', 0.0)]
    """
    scales = dict(lr_scale or {})
    for name, scale in scales.items():
        if scale < 0:
            raise ValueError(f"parameters.lr_scale.{name}={scale}: must be at least 0")
        _of(network, name, "parameters.lr_scale")
    if scales and lr is None:
        raise ValueError("parameters.lr_scale: this optimizer has no lr to scale")
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = max((n for n in scales if _within(name, n)), key=len, default="")
        decays = decay_all or parameter.dim() >= 2
        group = groups.get((layer, decays))
        if group is None:
            group = {"params": [], "name": (layer or "network") + ("" if decays else NO_DECAY)}
            group |= {} if decays else {"weight_decay": 0.0}
            group |= {"lr": lr * scales[layer]} if layer and lr is not None else {}
            groups[layer, decays] = group
        group["params"].append(parameter)
    return list(groups.values())


def _within(parameter: str, layer: str) -> bool:
    return parameter == layer or parameter.startswith(f"{layer}.")


def _of(network: nn.Module, layer: str, option: str) -> dict[str, nn.Parameter]:
    found = {n: p for n, p in network.named_parameters() if _within(n, layer)}
    if not found:
        known = ", ".join(name for name, _ in network.named_parameters())
        raise ValueError(f"{option}: no parameter is named '{layer}' or lies in it; known: {known}")
    return found
