"""Batch normalisation, an activation and max-pooling by the CPU's kernels, as one Function.

    u = γ·x̂ + β        y = act(u)        z[n, c, p, q] = max_window y

Of y nothing is kept or written: with the winner i*(p, q) of each window, which is a byte,

    ∂L/∂y[n, c, i] = Σ ∂L/∂z[n, c, p, q]        over the windows with i*(p, q) = i

and from there on the gradients are those of ``formulas``. The sums Σ h and Σ h·x̂ run over the winners alone,
since h = ∂L/∂y·act'(u) is 0 at all other places.

Source: docs/derivation.md, for the parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import batch_norm_pool as cpu
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.batch_norm_act.fused import densely, gradients_of
from cnnexp.ops.kernel_calls import way_to
from cnnexp.ops.max_pool2d import direct
from cnnexp.ops.max_pool2d.small_indices import indices_of

__all__ = ["Plan", "by_kernels", "takes"]

takes = cpu.takes


class Plan(NamedTuple):
    """What the Function knows of its arguments beside the tensors."""

    eps: float
    training: bool  # whether μ and σ² are the batch's own
    activation: str
    pool: WindowGeometry


def _forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    plan: Plan,
) -> tuple[Tensor, Tensor]:
    call, known = way_to(cpu.forward, input), (weight, bias, mean, variance)
    return call(input, *known, plan.eps, plan.activation, plan.pool)


def _gradients(
    grad_output: Tensor,
    winners: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    plan: Plan,
) -> tuple[Tensor, Tensor, Tensor]:
    """∂L/∂x, ∂L/∂γ and ∂L/∂β; with ``create_graph`` by formulas that can be differentiated again."""
    eps, training, activation, pool = plan
    known = weight, bias, mean, variance, eps
    if torch.is_grad_enabled():
        spread = direct.grad_input(grad_output, indices_of(winners, pool), pool)
        dense = densely(spread, input, *known, training, activation)
        return gradients_of(dense, input, weight, training)
    call = way_to(cpu.gradients, grad_output)
    return call(grad_output, winners, input, *known, activation, pool, not training)


_function = differentiable(
    _forward,
    input=lambda of_input: of_input,
    weight=lambda of_weight, weight: of_weight.to(weight.dtype),
    bias=lambda of_bias, bias: of_bias.to(bias.dtype),
    outputs=("output", "winners"),
    shared={("of_input", "of_weight", "of_bias"): _gradients},
)


def by_kernels(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    *plan: Any,
) -> Tensor:
    """The output from x, γ, β, μ, σ² and what a :class:`Plan` is of."""
    return _function(input, weight, bias, mean, variance, Plan(*plan))[0]
