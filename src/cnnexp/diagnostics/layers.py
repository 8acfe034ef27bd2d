"""The layers that are looked at: those with weights, and what each hands on to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp.diagnostics.landscape import undisturbed

__all__ = ["Spot", "TracedLayer", "trace_layers"]


@dataclass(frozen=True)
class Spot:
    """The output of one call of a module, in one forward pass of the network.

    Attributes:
        module: The module.
        call: Which of its calls, counted from 0; a module may stand in several places.
    """

    module: nn.Module
    call: int


@dataclass(frozen=True)
class TracedLayer:
    """A layer with weights, and where the activation a is that it hands on.

    a is the layer's output behind the normalisation, the activation function and the pooling that
    follow it directly, and before dropout; so it is the same whether these are layers of their own
    or done by one fused block.

    Attributes:
        name: Of the module in the network, ``"features.0"``.
        label: For people: its kind and number in the order of computing, ``"conv1"``.
        module: The layer.
        output: Where a is.
        squash: The output of a tanh or sigmoid among what follows, which can saturate; None without.
    """

    name: str
    label: str
    module: nn.Module
    output: Spot
    squash: Spot | None = None

    @property
    def weight(self) -> Tensor:
        """W of the layer."""
        return self.module.weight  # pyright: ignore[reportReturnType]

    @property
    def parameter(self) -> Tensor:
        """What trains as W: W itself, or what a pruning, which masks it, computes W from."""
        original = getattr(self.module, "weight_orig", None)
        return self.weight if original is None else original

    @property
    def unit_dim(self) -> int:
        """The dimension of the layer's output that counts channels, or features."""
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
    """The layers of ``network`` with weights of two dimensions or more, in the order of computing.

    Args:
        network: Run once, in evaluation mode: neither statistics nor random numbers move.
        images: (N, C, H, W), anything that it takes.
    """
    calls: list[_Call] = []
    counts: dict[nn.Module, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, taken: Any, given: Any) -> None:
            spot = Spot(module, counts.get(module, 0))
            counts[module] = spot.call + 1
            calls.append(_Call(name, spot, taken[0] if taken else None, given))

        return hook

    modes = [(module, module.training) for module in network.modules()]
    leaves = [(name, m) for name, m in network.named_modules() if not any(m.children())]
    handles = [module.register_forward_hook(note(name)) for name, module in leaves]
    try:
        with undisturbed(network), torch.no_grad():
            network.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
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
        squashes = [c.spot for c in following if isinstance(c.spot.module, (nn.Tanh, nn.Sigmoid))]
        kind = _kind(call.spot.module)
        numbers[kind] = numbers.get(kind, 0) + 1
        layers.append(
            TracedLayer(
                call.name,
                f"{kind}{numbers[kind]}",
                call.spot.module,
                following[-1].spot,
                squashes[0] if squashes else None,
            )
        )
    return layers


def has_weights(module: nn.Module) -> bool:
    """Whether the module is a layer with a kernel or matrix of its own."""
    weight = dict(module.named_parameters(recurse=False, remove_duplicate=False)).get("weight")
    return weight is not None and weight.dim() >= 2 and not isinstance(module, nn.Embedding)


def _chain(calls: Sequence[_Call]) -> list[_Call]:
    """The first of ``calls`` and what directly follows it of normalisation, activation, pooling."""
    chain = [calls[0]]
    for call in calls[1:]:
        if call.taken is not chain[-1].given or not _belongs(call.spot.module):
            break
        if not isinstance(call.given, Tensor):  # a pooling that returns indices as well
            break
        chain.append(call)
    return chain


_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
)
_CONVS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_FILES = ("torch.nn.modules.activation", "torch.nn.modules.pooling")


def _belongs(module: nn.Module) -> bool:
    if isinstance(module, (nn.Identity, *_NORMS)):  # an identity: a part that a fused block does
        return True
    return any(base.__module__ in _FILES for base in type(module).__mro__)


def _kind(module: nn.Module) -> str:
    if isinstance(module, _CONVS):
        return "conv"
    return "linear" if isinstance(module, nn.Linear) else type(module).__name__.lower()
