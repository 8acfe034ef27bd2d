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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cnnexp.nn.per_sample import Call, units_of
from cnnexp.ops.precision import whole_float32

__all__ = ["CLIPPINGS", "Clipping", "clipped_sums"]

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
    units = units_of(calls)
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
