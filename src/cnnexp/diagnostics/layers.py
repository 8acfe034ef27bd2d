"""The layers that are measured: those with weights, and the activation that each passes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp.nn import ConvTanhPool, left_as_found
from cnnexp.nn.deferring import Deferring


@dataclass(frozen=True)
class Spot:
    """The output of one call of a module, in one forward pass of the network.

    Attributes:
        module: The module.
        call: The number of the call, counted from 0; a module may be called several times.
    """

    module: nn.Module
    call: int


@dataclass(frozen=True)
class TracedLayer:
    """A layer with weights, and the place of the activation a that it passes on.

    a is the layer's output after the normalisation, the activation function and the pooling that
    follow it directly, and before dropout; so it is the same whether these are layers of their own
    or computed by one fused block.

    Attributes:
        name: The module's name in the network, for example ``"features.0"``.
        label: A name for people: its kind and number in the order of computation, ``"conv1"``.
        module: The layer.
        output: The place of a.
        squash: The output of a tanh or sigmoid among the modules that follow, which can saturate; None
            without one.
    """

    name: str
    label: str
    module: nn.Module
    output: Spot
    squash: Spot | None = None

    @property
    def weight(self) -> Tensor:
        """The layer's weight W."""
        return self.module.weight  # pyright: ignore[reportReturnType]

    @property
    def parameter(self) -> Tensor:
        """The parameter that is trained: W itself, or the one from which a pruning computes the masked W."""
        original = getattr(self.module, "weight_orig", None)
        return self.weight if original is None else original

    @property
    def unit_dim(self) -> int:
        """The dimension of the layer's output that holds its units: channels, or features."""
        return -1 if isinstance(self.module, nn.Linear) else 1

    def __str__(self) -> str:
        return self.label if self.label == self.name else f"{self.label} ({self.name})"


@dataclass(frozen=True)
class _Call:
    name: str
    spot: Spot
    taken: Any
    given: Any


def trace_layers(network: nn.Module, images: Tensor) -> list[TracedLayer]:
    """The layers of ``network`` whose weights have two or more dimensions, in the order of computation.

    Args:
        network: The network; run once, in evaluation mode: neither statistics nor random states change.
        images: (N, C, H, W), any images that it takes.
    """
    calls: list[_Call] = []
    counts: dict[nn.Module, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, taken: Any, given: Any) -> None:
            spot = Spot(module, counts.get(module, 0))
            counts[module] = spot.call + 1
            calls.append(_Call(name, spot, taken[0] if taken else None, given))

        return hook

    with left_as_found(network), torch.no_grad():
        for name, module in network.named_modules():
            if not any(module.children()):
                module.register_forward_hook(note(name))
        network.eval()(images)
    return _layers(calls)


def _layers(calls: Sequence[_Call]) -> list[TracedLayer]:
    layers: list[TracedLayer] = []
    numbers: dict[str, int] = {}
    for i, call in enumerate(calls):
        if call.spot.call or not has_weights(call.spot.module):
            continue
        if not isinstance(call.given, Tensor):
            continue
        following = _chain(calls[i:])
        spots = [each.spot for each in following]
        squashes = (spot for spot in spots if _squashes(spot.module))
        kind = _kind(call.spot.module)
        numbers[kind] = numbers.get(kind, 0) + 1
        label, squash = f"{kind}{numbers[kind]}", next(squashes, None)
        layers.append(TracedLayer(call.name, label, call.spot.module, spots[-1], squash))
    return layers


def _squashes(module: nn.Module) -> bool:
    """Whether the module's output shows its tanh or its sigmoid; a block's that waits shows none."""
    return isinstance(module, (nn.Tanh, nn.Sigmoid, ConvTanhPool)) and not isinstance(
        module, Deferring
    )


def has_weights(module: nn.Module) -> bool:
    """Whether the module is a layer with a kernel or matrix of its own."""
    weight = dict(module.named_parameters(recurse=False, remove_duplicate=False)).get("weight")
    return weight is not None and weight.dim() >= 2 and not isinstance(module, nn.Embedding)


def _chain(calls: Sequence[_Call]) -> list[_Call]:
    """The first of ``calls`` and the normalisation, activation and pooling that directly follow it."""
    chain = [calls[0]]
    for call in calls[1:]:
        if call.taken is not chain[-1].given or not _belongs(call.spot.module):
            break
        if not isinstance(call.given, Tensor):  # for example a pooling that returns indices as well
            break
        chain.append(call)
    return chain


def is_of(module: nn.Module, *files: str) -> bool:
    """Whether the class of ``module``, or one of its bases, stands in one of these ``files`` of torch's."""
    known = {f"torch.nn.modules.{file}" for file in files}
    return any(base.__module__ in known for base in type(module).__mro__)


def _belongs(module: nn.Module) -> bool:
    # an identity stands where a fused block computes the part
    if isinstance(module, (nn.Identity, nn.GroupNorm, nn.LayerNorm)):
        return True
    return is_of(module, "batchnorm", "instancenorm", "activation", "pooling")


def _kind(module: nn.Module) -> str:
    if is_of(module, "conv"):
        return "conv"
    return "linear" if isinstance(module, nn.Linear) else type(module).__name__.lower()
