"""Clip the gradient of each sample: factors from norms, and the sum of the clipped gradients.

    flat:       c_n = min(1, C / ‖g_n‖)             ‖g_n‖ over all parameters
    per_layer:  c_n,l = min(1, (C/√L) / ‖g_n,l‖)    for each of L layers by itself
    automatic:  c_n = C / (‖g_n‖ + γ), γ = 0.01     every gradient is scaled, none is left as it is

Either way no sample moves the sum Σ_n c_n·g_n by more than C, which is what the noise is measured by.

Source: Abadi et al., "Deep Learning with Differential Privacy" (2016), algorithm 1; McMahan et al.,
"Learning Differentially Private Recurrent Language Models" (2018), for per-layer clipping; Bu et al.,
"Automatic Clipping: Differentially Private Deep Learning Made Easier and Stronger" (2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cnnexp.ops.precision import whole_float32
from cnnexp.privacy.calls import Call, PerSample, squared_norms_of

__all__ = ["CLIPPINGS", "Clipping", "clipped_sums", "sample_norms"]

CLIPPINGS = ("flat", "per_layer", "automatic")
_GAMMA = 0.01  # Bu et al. (2023), section 4


@dataclass(frozen=True)
class Clipping:
    """How gradients are clipped.

    Args:
        norm: C > 0, how much one sample may move the sum of the gradients; infinite for no clipping.
        kind: ``flat``, ``per_layer`` or ``automatic``.

    Raises:
        ValueError: One of them is out of range.
    """

    norm: float
    kind: Literal["flat", "per_layer", "automatic"] = "flat"

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise ValueError(f"clip={self.norm}: must be greater than 0")
        if self.kind not in CLIPPINGS:
            raise ValueError(f"clipping={self.kind}: must be one of {', '.join(CLIPPINGS)}")
        if self.kind == "automatic" and math.isinf(self.norm):
            raise ValueError(f"clip={self.norm}: clipping=automatic scales each gradient to it")

    def factors(self, squares: Tensor) -> Tensor:
        """The c by sample and layer from ‖g_n,l‖², both (L, N)."""
        if self.kind == "per_layer":
            return _at_most(self.norm / math.sqrt(len(squares)), squares.sqrt())
        norms = squares.sum(0).sqrt()
        if self.kind == "automatic":
            return (self.norm / (norms + _GAMMA)).expand_as(squares)
        return _at_most(self.norm, norms).expand_as(squares)


def _at_most(limit: float, norms: Tensor) -> Tensor:
    return (limit / norms).clamp(max=1.0)  # a norm of 0 gives infinity, and so 1


@torch.no_grad()
def sample_norms(calls: Sequence[Call], scale: float = 1.0) -> Tensor:
    """‖g_n‖² by layer: (L, N) float64, for gradients that are ``scale`` times those in ``calls``."""
    with whole_float32():
        return torch.stack([unit.squared_norms() for unit in _units(calls)]) * scale**2


@torch.no_grad()
def clipped_sums(
    calls: Sequence[Call], clipping: Clipping, scale: float = 1.0
) -> dict[nn.Parameter, Tensor]:
    """Σ_n c_n·g_n by parameter.

    Args:
        calls: Of all layers, after the backward pass; at least one has been in it.
        clipping: Which factors c_n there are.
        scale: What g_n is multiplied by to be the gradient of sample n's own loss: the number by which
            the loss divided the sum over the samples. The sums are of g_n as they are.
    """
    units = _units(calls)
    sums: dict[nn.Parameter, Tensor] = {}
    if math.isinf(clipping.norm):  # the plain gradient, to the bit
        for unit in units:
            sums.update(unit.weighted(torch.ones(unit.samples)))
        return sums
    with whole_float32():  # a norm that is too small by rounding clips too little
        squares = torch.stack([unit.squared_norms() for unit in units]) * scale**2
        for unit, factors in zip(units, clipping.factors(squares), strict=True):
            sums.update(unit.weighted(factors))
    return sums


@dataclass(frozen=True)
class _Unit:
    """Calls that share parameters, mostly one alone: what a norm is of."""

    calls: tuple[Call, ...]

    @property
    def samples(self) -> int:
        return self.calls[0].samples

    def squared_norms(self) -> Tensor:
        if len(self.calls) == 1:
            return self.calls[0].squared_norms()
        first = self.calls[0]
        return squared_norms_of(self._added, first.samples, sum(call.size for call in self.calls))

    def weighted(self, factors: Tensor) -> Mapping[nn.Parameter, Tensor]:
        sums: dict[nn.Parameter, Tensor] = {}
        for call in self.calls:
            for name, g in call.weighted(factors).items():
                parameter = call.parameters[name]
                sums[parameter] = sums[parameter] + g if parameter in sums else g
        return sums

    def _added(self, first: int, end: int) -> PerSample:
        """The gradient of each sample, summed over the calls: norms of sums are no sums of norms."""
        added: PerSample = {}
        for call in self.calls:
            for name, g in call.per_sample(first, end).items():
                key = str(id(call.parameters[name]))
                added[key] = added[key] + g if key in added else g
        return added


def _units(calls: Iterable[Call]) -> list[_Unit]:
    """The calls that the backward pass came to, together where they share a parameter."""
    groups: dict[int, list[Call]] = {}
    of_parameter: dict[nn.Parameter, int] = {}
    for number, call in enumerate(call for call in calls if call.grad_output is not None):
        groups[number] = [call]
        for parameter in call.parameters.values():
            other = of_parameter.get(parameter, number)
            if other != number:
                groups[number] += groups.pop(other)
                of_parameter = {p: number if n == other else n for p, n in of_parameter.items()}
            of_parameter[parameter] = number
    return [_Unit(tuple(group)) for group in groups.values()]
