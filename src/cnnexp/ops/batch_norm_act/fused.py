"""Batch normalisation and an activation by the CPU's kernels; the formulas stand in ``formulas``."""

from __future__ import annotations

from collections.abc import Callable
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
) -> Dense | None:
    """With ``create_graph`` what the formulas need, which can be differentiated again; else None."""
    if not torch.is_grad_enabled():
        return None
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


def _joint(training: bool) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    def gradients(
        dense: Dense | None,
        grad_output: Tensor,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        activation: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """∂L/∂x, ∂L/∂γ and ∂L/∂β."""
        if dense is None:
            known = weight, bias, mean, variance, eps, activation
            call = way_to(cpu.gradients, grad_output)
            return call(grad_output, input, *known, not training)
        return gradients_of(dense, input, weight, training)

    return gradients


_in_training, _in_evaluation = (
    differentiable(
        _forward,
        input=lambda of_input: of_input,
        weight=lambda of_weight, weight: of_weight.to(weight.dtype),
        bias=lambda of_bias, bias: of_bias.to(bias.dtype),
        shared={"dense": densely, ("of_input", "of_weight", "of_bias"): _joint(training)},
    )
    for training in (True, False)
)


def by_kernels(input: Tensor, *arguments: object) -> Tensor:
    """The output from x, γ, β, μ, σ², ε, whether these are the batch's own, and the activation."""
    by_batch = arguments[-2]
    return (_in_training if by_batch else _in_evaluation)(input, *arguments)
