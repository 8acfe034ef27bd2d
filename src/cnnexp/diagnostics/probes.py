"""Measure one step of the optimiser: activations, their gradients, weights, updates.

Everything is reduced on the device and fetched in one transfer. A probe changes nothing, draws no
random number, and leaves no hook behind once the step is done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cnnexp.diagnostics.layers import TracedLayer
from cnnexp.diagnostics.reading import Reading
from cnnexp.nn import ConvTanhPool
from cnnexp.ops.torch_internals import norms


@dataclass
class _Seen:
    """The figures of one layer, by forward pass: a step may consist of several batches."""

    counts: list[int] = field(default_factory=list)
    greatest: Tensor | None = None  # the greatest |a| of each unit
    figures: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def numbers(self) -> dict[str, list[Tensor]]:
        """All tensors that are to be fetched from the device, by name, see :class:`Reading`."""
        alive = [] if self.greatest is None else [self.greatest != 0]  # NaN is not dead
        return {**self.figures, "alive": alive}


class StepProbe:
    """Hooks that measure one step of the optimiser.

    Call :meth:`attach` before the step's first forward pass, :meth:`before_step` once the
    gradients of the parameters are there, :meth:`after_step` once the optimiser has changed the
    weights, then :meth:`read`.

    Args:
        network: The network.
        layers: Its layers, from :func:`cnnexp.diagnostics.trace_layers`.
    """

    def __init__(self, network: nn.Module, layers: Sequence[TracedLayer]) -> None:
        self._network, self._layers = network, layers
        self._seen = [_Seen() for _ in layers]
        self._calls: dict[nn.Module, int] = {}
        self._handles: list[RemovableHandle] = []
        self._before: list[tuple[_Seen, Tensor, Tensor]] = []
        self._whole: dict[str, Tensor] = {}

    def attach(self) -> None:
        """Register the hooks."""
        at: dict[nn.Module, list[tuple[int, _Seen, int | None]]] = {}
        for layer, seen in zip(self._layers, self._seen, strict=True):
            spot = (layer.output.call, seen, layer.unit_dim)
            at.setdefault(layer.output.module, []).append(spot)
            if layer.squash is not None:
                at.setdefault(layer.squash.module, []).append((layer.squash.call, seen, None))
        for module, spots in at.items():
            self._handles.append(module.register_forward_hook(self._hook(spots)))
        self._handles.append(self._network.register_forward_pre_hook(self._new_pass))

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _new_pass(self, _network: nn.Module, _taken: Any) -> None:
        self._calls = {}

    def _hook(self, spots: Sequence[tuple[int, _Seen, int | None]]) -> Any:
        def hook(module: nn.Module, taken: Any, output: Tensor) -> None:
            if not self._network.training:  # a validation between two batches of the step
                return
            call = self._calls.get(module, 0)
            self._calls[module] = call + 1
            for number, seen, unit_dim in spots:
                if number == call and unit_dim is None:
                    seen.figures["saturated"].append(_saturated(module, taken[0], output))
                elif number == call and unit_dim is not None:
                    _note(seen, output, unit_dim)

        return hook

    @torch.no_grad()
    def before_step(self, scale: Tensor | None = None) -> bool:
        """Record gradients and weights, and remove the hooks: later forward passes are no part of the step.

        Args:
            scale: The scalar by which the loss was multiplied before the backward (a gradient scaler's);
                the gradients of the parameters have been divided by it already.

        Returns:
            Whether any parameter has a gradient; without one there is nothing to measure.
        """
        self.detach()
        found = [(p, p.grad) for p in self._network.parameters() if p.grad is not None]
        if not found:
            return False
        each = norms([gradient for _, gradient in found])
        of = {id(p): norm for (p, _), norm in zip(found, each, strict=True)}
        self._whole["gradient_norm"] = torch.linalg.vector_norm(torch.stack(each))
        if scale is not None:
            self._whole["scale"] = scale
        for layer, seen in zip(self._layers, self._seen, strict=True):
            weight = layer.weight.detach()
            seen.figures["weight"] = [torch.linalg.vector_norm(weight)]
            trained = layer.parameter
            if id(trained) in of:
                seen.figures["weight_gradient"] = [of[id(trained)]]
                self._before.append((seen, trained, trained.detach().clone()))
        return True

    @torch.no_grad()
    def after_step(self) -> None:
        """Record by how much the weights changed."""
        for seen, weight, before in self._before:
            seen.figures["update"] = [torch.linalg.vector_norm(weight.detach() - before)]
        self._before = []

    def read(self, losses: Sequence[Tensor], **others: Tensor) -> Reading:
        """Return everything that was recorded, fetched in one transfer.

        Args:
            losses: Scalars to fetch along with it.
            others: More scalars to fetch, by name.
        """
        whole = {
            "losses": list(losses),
            **{k: [v] for k, v in {**self._whole, **others}.items()},
        }
        parts = [whole, *(seen.numbers() for seen in self._seen)]
        values = [value for part in parts for each in part.values() for value in each]
        flat = iter(_together(values))
        read = [
            {
                name: [next(flat) for value in each for _ in range(value.numel())]
                for name, each in part.items()
            }
            for part in parts
        ]
        return Reading(read[0], read[1:], [tuple(seen.counts) for seen in self._seen])


def _together(values: Sequence[Tensor]) -> list[float]:
    """All elements of all ``values``, fetched with one wait for the device."""
    if not values:
        return []
    dtype = torch.float32 if values[0].device.type == "mps" else torch.float64
    return torch.cat([value.detach().reshape(-1).to(dtype) for value in values]).tolist()


def _note(seen: _Seen, output: Tensor, unit_dim: int) -> None:
    """Reduce a, whose units lie along ``unit_dim``, and once it is computed, ∂L/∂a."""
    a = output.detach()
    if a.dtype in (torch.float16, torch.bfloat16):
        a = a.float()
    mean = a.mean()
    seen.counts.append(a.numel())
    seen.figures["means"].append(mean)
    seen.figures["deviations"].append(torch.linalg.vector_norm(a - mean))
    others = [d for d in range(a.dim()) if d != unit_dim % a.dim()]
    greatest = a.abs().amax(others) if a.numel() else a.new_zeros(a.size(unit_dim))
    seen.greatest = greatest if seen.greatest is None else torch.maximum(seen.greatest, greatest)
    if output.requires_grad:
        output.register_hook(lambda gradient: _note_gradient(seen, gradient))


def _note_gradient(seen: _Seen, gradient: Tensor) -> None:
    low = gradient.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if low else gradient.dtype
    norm = torch.linalg.vector_norm(gradient.detach(), dtype=dtype)
    seen.figures["gradients"].append(norm)


@torch.no_grad()
def _saturated(module: nn.Module, taken: Tensor, output: Tensor) -> Tensor:
    """The share of outputs where tanh' = 1 − a², or σ' = a(1 − a), is below a tenth of its maximum,
    a scalar. Behind its pooling a block does not show them, so they are computed again.
    """
    a = (module.squashed(taken) if isinstance(module, ConvTanhPool) else output.detach()).float()
    slope = 4 * a * (1 - a) if isinstance(module, nn.Sigmoid) else 1 - a * a
    return (slope < 0.1).float().mean()
