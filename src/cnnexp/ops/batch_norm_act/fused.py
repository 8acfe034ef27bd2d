"""Batch normalisation and an activation by the CPU's kernels; the formulas stand in ``formulas``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cnnexp.kernels.cpu import batch_norm as cpu
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.batch_norm import grad_bias, grad_weight, normalised
from cnnexp.ops.batch_norm import scale as scale_of
from cnnexp.ops.batch_norm_act.formulas import grad_input, statistics, through, value
from cnnexp.ops.kernel_calls import way_to
from cnnexp.ops.precision import widened

__all__ = ["Dense", "by_kernels", "densely", "gradients_of"]


def _forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    training: bool,  # noqa: ARG001 (for the gradients)
    activation: str,
) -> Tensor:
    call = way_to(cpu.forward, input)
    return call(input, weight, bias, mean, variance, eps, activation)


class Dense(NamedTuple):
    """What the formulas of the gradients need."""

    grad_value: Tensor
    centred: Tensor
    scale: Tensor


def densely(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    training: bool,
    activation: str,
) -> Dense:
    """What the formulas need, which can be differentiated again."""
    image = widened(input)
    mean, variance = statistics(image, mean, variance, training)
    scale = scale_of(variance, eps)
    centred = normalised(image, mean, scale)
    found = through(widened(grad_output), value(centred, weight, bias), activation)
    return Dense(found, centred, scale)


def gradients_of(
    dense: Dense, input: Tensor, weight: Tensor | None, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """∂L/∂x, ∂L/∂γ and ∂L/∂β by the formulas."""
    of_input = grad_input(*dense, weight, training).to(input.dtype)
    return of_input, grad_weight(dense.grad_value, dense.centred), grad_bias(dense.grad_value)


def _gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    training: bool,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """∂L/∂x, ∂L/∂γ and ∂L/∂β; with ``create_graph`` by formulas that can be differentiated again."""
    known = weight, bias, mean, variance, eps
    if torch.is_grad_enabled():
        dense = densely(grad_output, input, *known, training, activation)
        return gradients_of(dense, input, weight, training)
    call = way_to(cpu.gradients, grad_output)
    return call(grad_output, input, *known, activation, not training)


by_kernels = differentiable(
    _forward,
    input=lambda of_input: of_input,
    weight=lambda of_weight, weight: of_weight.to(weight.dtype),
    bias=lambda of_bias, bias: of_bias.to(bias.dtype),
    shared={("of_input", "of_weight", "of_bias"): _gradients},
)
