"""Batch normalisation and an activation by torch's operations, and the formulas of their gradients.

With μ, σ² and r = 1/√(σ² + ε) as in ``batch_norm``:

    x̂ = (x − μ)·r        u = γ·x̂ + β        y = act(u)

Usually u is written and read again by the activation, and its backward writes ∂L/∂u. But act'(u) follows
from x, which the normalisation keeps anyway; so with h = ∂L/∂u = g·act'(u) taken where it is needed,

    ∂L/∂β = Σ h        ∂L/∂γ = Σ h·x̂        ∂L/∂x = γ·r·(h − (Σ h)/M − x̂·(Σ h·x̂)/M)

is one pass over g and x for the two sums and a second for ∂L/∂x; nothing is kept but x, not even y for the
convolution that reads it, which can compute it again from x (``recompute``). In evaluation μ and
σ² are constants: ∂L/∂x = γ·r·h. ``fused`` does this on the CPU, ``direct`` with torch's operations, one
after the other; the gradient of the gradient takes the latter way.

    relu        y = max(u, 0)                      act' = [u > 0]
    relu6       y = min(max(u, 0), 6)              act' = [0 < u < 6]
    hardswish   y = u·min(max(u + 3, 0), 6)/6      act' = u/3 + ½ within (−3, 3), 0 below, 1 above
    silu        y = u·σ(u)                         act' = σ(u)·(1 + u·(1 − σ(u)))
    none        y = u                              act' = 1

Source: Rota Bulò, Porzi & Kontschieder, "In-Place Activated BatchNorm for Memory-Optimized Training of
DNNs" (2018), which inverts the activation where this one computes it again; docs/derivation.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.kernels.cpu import batch_norm as cpu
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.batch_norm import (
    along,
    grad_bias,
    grad_weight,
    normalised,
)
from cnnexp.ops.batch_norm import forward as normalised_output
from cnnexp.ops.batch_norm import grad_input as grad_norm
from cnnexp.ops.batch_norm import grad_input_in_evaluation as grad_norm_in_evaluation
from cnnexp.ops.batch_norm import scale as scale_of
from cnnexp.ops.batch_norm import statistics as batch_mean_and_variance
from cnnexp.ops.layout import laid_out

ACTIVATIONS = tuple(cpu.ACTIVATIONS)


def activated(value: Tensor, activation: str) -> Tensor:
    """act(u) of any shape."""
    if activation == "relu":
        return value.clamp_min(0)
    if activation == "relu6":
        return value.clamp(0, 6)
    if activation == "hardswish":
        return value * (value + 3).clamp(0, 6) / 6
    return value * value.sigmoid() if activation == "silu" else value


def through(grad_output: Tensor, value: Tensor, activation: str) -> Tensor:
    """∂L/∂u = g·act'(u) from ∂L/∂y and u, of any shape."""
    if activation == "relu":
        return torch.where(value <= 0, 0, grad_output)
    if activation == "relu6":
        return torch.where((value <= 0) | (value >= 6), 0, grad_output)
    if activation == "hardswish":
        within = torch.where(value < 3, value / 3 + 0.5, 1)
        return torch.where(value <= -3, 0, grad_output * within)
    if activation == "silu":
        sigma = value.sigmoid()
        return grad_output * sigma * (1 + value * (1 - sigma))
    return grad_output


def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    training: bool,  # noqa: ARG001 (for the gradients)
    activation: str,
) -> Tensor:
    """The output y from x: (N, C, …), γ, β, μ and σ²: (C,)."""
    return activated(normalised_output(input, weight, bias, mean, variance, eps), activation)


def statistics(
    input: Tensor, mean: Tensor, variance: Tensor, training: bool
) -> tuple[Tensor, Tensor]:
    """μ and σ² as functions of x: worked out again, so that a backward can itself be differentiated."""
    return batch_mean_and_variance(input) if training else (mean, variance)


def value(centred: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The u from x̂: (N, C, …), γ and β."""
    scaled = centred if weight is None else centred * along(weight, centred)
    return scaled if bias is None else scaled + along(bias, centred)


def grad_input(
    grad_value: Tensor, centred: Tensor, scale: Tensor, weight: Tensor | None, training: bool
) -> Tensor:
    """∂L/∂x from ∂L/∂u, x̂: (N, C, …), r and γ: (C,)."""
    if training:
        return grad_norm(grad_value, centred, scale, weight)
    return grad_norm_in_evaluation(grad_value, scale, weight)


def _tangent(
    input_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
    centred: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    value: Tensor,
    training: bool,
    activation: str,
) -> Tensor:
    moved = torch.zeros_like(centred)
    if input_tangent is not None:  # the Jacobian of x → u is symmetric
        moved = moved + grad_input(input_tangent, centred, scale, weight, training)
    if weight_tangent is not None:
        moved = moved + centred * along(weight_tangent, centred)
    if bias_tangent is not None:
        moved = moved + along(bias_tangent, centred)
    return through(moved, value, activation)


_dense = differentiable(
    forward,
    input=grad_input,
    weight=lambda grad_value, centred: grad_weight(grad_value, centred),
    bias=lambda grad_value: grad_bias(grad_value),
    shared={
        ("mean", "variance"): statistics,
        "scale": scale_of,
        "centred": normalised,
        "value": value,
        "grad_value": through,  # of ∂L/∂y and u
    },
    tangent=_tangent,
    widens="all",
)


def activated_by_torch(value: Tensor, activation: str, inplace: bool = False) -> Tensor:
    """act(u) by torch's own function, which may leave it in ``value``."""
    return value if activation == "none" else getattr(F, activation)(value, inplace=inplace)


def check(activation: str) -> None:
    """Raise ``ValueError`` for an activation that is not one of ``ACTIVATIONS``."""
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"unknown activation '{activation}'; known: {known}")


def by_formulas(input: Tensor, *arguments: Any) -> Tensor:
    """The output from x, γ, β, μ, σ², ε, whether these are the batch's own, and the activation."""
    return laid_out(_dense(input, *arguments), input)
