"""Give a network the weights of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnexp.suggestions import did_you_mean

__all__ = ["Transfer", "transfer_weights"]

_WRAPPERS = (
    "network.",
    "module.",
    "model.",
)  # what cnnexp, DataParallel and others put before names
_COUNTER = "num_batches_tracked"  # of batch normalisations; older files lack it
_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Transfer:
    """What a network has got from another one.

    Attributes:
        taken: The names of the parameters and buffers that were taken, in the network's order.
        kept: How many parameters and buffers of the network stayed as they were.
        anew: The name of the last layer, where it did not fit and so stayed as it was made; else "".
        shapes: The shapes of that layer's weight (there, here); () for one that the source lacks.
    """

    taken: tuple[str, ...]
    kept: int
    anew: str = ""
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def __str__(self) -> str:
        count = len(self.taken)
        text = f"{count} of {count + self.kept} tensors"
        if not self.anew:
            return text
        there, here = self.shapes
        why = f"{there} there, {here} here" if there else "it is not there"
        return f"{text}; the last layer, {self.anew}, is made anew ({why})"


@torch.no_grad()
def transfer_weights(
    network: nn.Module, weights: Mapping[str, Tensor], layers: Sequence[str] = ()
) -> Transfer:
    """Copy ``weights`` into the parameters and buffers of ``network`` that have their names.

    The last layer is the last module with parameters of its own, which gives the logits. Where a shape
    of it differs, or the source lacks it, the whole layer stays as it is: the classes are others. Every
    other difference is an error, and then nothing is changed.

    Args:
        network: The network that gets the weights; one on the meta device is checked alone.
        weights: By the names of a state dict. Where all names begin with ``network.``, ``module.`` or
            ``model.``, which programs put around a network, they are taken without.
        layers: Names of modules or parameters; these alone are taken. All if empty: then the source must
            not hold others, either.

    Raises:
        ValueError: A name of ``layers`` matches nothing; the source lacks a tensor, has one of another
            shape or kind, or holds others than the network's; a value is infinite or NaN.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from cnnexp.models import transfer_weights
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        >>> source = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 10))
        >>> print(transfer_weights(network, source.state_dict()))
        2 of 4 tensors; the last layer, 1, is made anew ((10, 8) there, (3, 8) here)
        >>> torch.equal(network[0].weight, source[0].weight)
        True
    """
    state = network.state_dict(keep_vars=True)
    own = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    weights = _unwrapped(weights, own)
    wanted = {name: value for name, value in own.items() if _is_in(name, layers)}
    for layer in layers:
        if not any(_within(name, layer) for name in own):
            known = sorted({part for name in own for part in _parents(name)})
            raise ValueError(
                f"init_from.layers=[{layer}]: the network has no such layer; its parts are "
                f"{', '.join(_outermost(known))}.{did_you_mean(layer, known)}"
            )
    last = _last_layer(network)
    differ = [
        name
        for name in wanted
        if last is not None
        and name.rpartition(".")[0] == last
        and _shape(weights.get(name)) != tuple(own[name].shape)
    ]
    if differ:
        wanted = {name: value for name, value in wanted.items() if name.rpartition(".")[0] != last}
    _check(wanted, weights, layers, others=set(weights) - set(own))
    taken = [name for name in wanted if name in weights]
    for name in taken:
        wanted[name].copy_(weights[name])
    shapes = (
        (_shape(weights.get(differ[0])) or (), tuple(own[differ[0]].shape)) if differ else ((), ())
    )
    return Transfer(tuple(taken), len(own) - len(taken), last or "" if differ else "", shapes)


def _check(
    wanted: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    layers: Sequence[str],
    others: set[str],
) -> None:
    """Make sure that all of ``wanted`` can be taken from ``weights``."""
    alone = "name the layers to take alone, init_from.layers=[…]"
    missing = [n for n in wanted if n not in weights and n.rpartition(".")[2] != _COUNTER]
    if missing:
        raise ValueError(
            f"has no {_some(missing)}, which the network has; is it of this model? Else {alone}"
        )
    for name, value in wanted.items():
        if name not in weights:
            continue
        there, here = tuple(weights[name].shape), tuple(value.shape)
        if there != here:
            raise ValueError(
                f"{name} has the shape {there} there, but {here} in the network; use the model that it is of "
                f"(and images of its channels), or {alone}"
            )
        if weights[name].is_floating_point() != value.is_floating_point():
            raise ValueError(
                f"{name} is of {weights[name].dtype} there, but {value.dtype} here; {alone}"
            )
        if not bool(weights[name].isfinite().all()):
            raise ValueError(f"{name} holds values that are infinite or NaN; use other weights")
    if others and not layers:
        raise ValueError(
            f"holds {_some(sorted(others))}, which the network has not; use its model, or {alone}"
        )


def _unwrapped(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` by the names that they have within the network that was wrapped."""
    for prefix in _WRAPPERS:
        if any(name.startswith(prefix) for name in own):
            continue
        inside = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
        # what stands beside the network, such as the mean of the pixels, is no part of it
        if inside:
            return inside
    return dict(weights)


def _last_layer(network: nn.Module) -> str | None:
    """The name of the last module with parameters of its own; None for a network that is one layer."""
    names = [
        n for n, m in network.named_modules() if any(True for _ in m.parameters(recurse=False))
    ]
    return names[-1] if names and names[-1] else None


def _is_in(name: str, layers: Sequence[str]) -> bool:
    return not layers or any(_within(name, layer) for layer in layers)


def _within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _outermost(names: Sequence[str]) -> list[str]:
    return [name for name in names if "." not in name]


def _shape(value: Tensor | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value.shape)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
