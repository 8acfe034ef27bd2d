"""Batch normalisation.

In training, with M the number of elements of a channel c (all n and positions), μ their mean and σ²
their variance (divided by M),

    x̂ = (x − μ) · r,   r = 1/√(σ² + ε)        y = γ·x̂ + β

μ and r depend on every x of the channel. With g = ∂L/∂y the chain rule through x̂, σ² and μ gives

    ∂L/∂β = Σ g        ∂L/∂γ = Σ g·x̂        ∂L/∂x = γ·r·(g − (Σ g)/M − x̂·(Σ g·x̂)/M)

the part of g that neither shifts nor scales the channel: the normalisation takes those two away. In
evaluation μ and σ² are the running ones, constants: ∂L/∂x = γ·r·g.

Source: Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift" (2015), section 3; docs/derivation.md.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.layout import laid_out
from cnnexp.ops.ownership import owned, owned_gradients
from cnnexp.ops.precision import widened
from cnnexp.ops.registry import Algorithm, get_algorithm, register
from cnnexp.ops.torch_internals import in_torch_func

__all__ = ["batch_norm", "forward", "grad_input", "grad_weight", "statistics"]


def _summed(input: Tensor) -> list[int]:
    """All dimensions but the channel's."""
    return [0, *range(2, input.dim())]


def _along(channel: Tensor, input: Tensor) -> Tensor:
    """(C,) → (C, 1, …, 1), to multiply with (N, C, …)."""
    return channel.reshape(-1, *[1] * (input.dim() - 2))


def statistics(input: Tensor) -> tuple[Tensor, Tensor]:
    """μ and σ² of each channel of x: (N, C, …) → (C,), (C,)."""
    variance, mean = torch.var_mean(input, _summed(input), correction=0)
    return mean, variance


def forward(
    input: Tensor, mean: Tensor, scale: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Y from x: (N, C, …), μ, r, γ and β: (C,)."""
    factor = scale if weight is None else scale * weight
    shifted = (input - _along(mean, input)) * _along(factor, input)
    return shifted if bias is None else shifted + _along(bias, input)


def grad_input(
    grad_output: Tensor, centred: Tensor, scale: Tensor, weight: Tensor | None, training: bool
) -> Tensor:
    """∂L/∂x from ∂L/∂y, x̂: (N, C, …), r and γ: (C,)."""
    factor = _along(scale if weight is None else scale * weight, centred)
    if not training:
        return grad_output * factor
    dims = _summed(centred)
    shift = grad_output.mean(dims, keepdim=True)
    stretch = (grad_output * centred).mean(dims, keepdim=True)
    return factor * (grad_output - shift - centred * stretch)


def grad_weight(grad_output: Tensor, centred: Tensor, per_sample: bool = False) -> Tensor:
    """∂L/∂γ from ∂L/∂y and x̂: (N, C, …) → (C,), with ``per_sample`` (N, C)."""
    dims = _summed(centred)[1:] if per_sample else _summed(centred)
    product = grad_output * centred
    return product.sum(dims) if dims else product


class _BatchNormFunction(torch.autograd.Function):
    """(x, γ, β, μ, σ², ε, training) → y.

    In training μ and σ² are those of x; they are worked out again in the backward, so that it can
    itself be differentiated.
    """

    generate_vmap_rule = True  # everything below is pure torch

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        training: bool,
    ) -> Tensor:
        weight, bias = (None if t is None else widened(t) for t in (weight, bias))
        output = forward(widened(input), mean, (variance + eps).rsqrt(), weight, bias)
        return owned(output.to(input.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _, mean, variance, ctx.eps, ctx.training = inputs
        constants = (None, None) if ctx.training else (mean, variance)
        ctx.save_for_backward(input, weight, *constants)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # read once: under torch.utils.checkpoint each reading would compute the forward again
        input, weight, mean, variance = ctx.saved_tensors
        x, grad = widened(input), widened(grad_output)
        if ctx.training:
            mean, variance = statistics(x)
        scale = (variance + ctx.eps).rsqrt()
        centred = (x - _along(mean, x)) * _along(scale, x)
        grads: list[Tensor | None] = [None] * 7
        if ctx.needs_input_grad[0]:
            wide = None if weight is None else widened(weight)
            grads[0] = grad_input(grad, centred, scale, wide, ctx.training).to(input.dtype)
        if ctx.needs_input_grad[1]:
            assert weight is not None  # it needs a gradient
            grads[1] = grad_weight(grad, centred).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            # β has the dtype of γ
            grads[2] = grad.sum(_summed(x)).to(grad.dtype if weight is None else weight.dtype)
        return owned_gradients(grads)


class _WithTangents(_BatchNormFunction):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _BatchNormFunction.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], inputs[1], *((None, None) if ctx.training else inputs[3:5]))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        input_tangent, weight_tangent, bias_tangent = tangents[:3]
        input, weight, mean, variance = ctx.saved_tensors
        x = widened(input)
        if ctx.training:
            mean, variance = statistics(x)
        scale = (variance + ctx.eps).rsqrt()
        centred = (x - _along(mean, x)) * _along(scale, x)
        tangent = torch.zeros_like(x)
        if input_tangent is not None:  # the Jacobian of x → y is symmetric
            tangent = tangent + grad_input(
                widened(input_tangent), centred, scale, weight, ctx.training
            )
        if weight_tangent is not None:
            tangent = tangent + centred * _along(weight_tangent, x)
        if bias_tangent is not None:
            tangent = tangent + _along(bias_tangent, x)
        return tangent.to(input.dtype)


def _direct(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    _check(input, running_mean, running_var, weight, bias, training)
    if training and eps <= 0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if input.numel() == 0:
        # no statistics to normalise by and none to remember (as torch)
        mean, variance = input.new_zeros(input.size(1)), input.new_ones(input.size(1))
        training = False
    elif training:
        with torch.no_grad():
            mean, variance = statistics(widened(input.detach()))
        # before the Function: a checkpoint ends its recomputation there, and torch moves them first
        if running_mean is not None and running_var is not None:
            _move(running_mean, running_var, mean, variance, input, momentum)
    else:
        assert running_mean is not None  # _check
        assert running_var is not None
        # copies: a training step may move them before the backward
        mean, variance = running_mean.clone(), running_var.clone()
    function = _WithTangents if in_forward_mode() else _BatchNormFunction
    output = function.apply(input, weight, bias, mean, variance, eps, training)
    return laid_out(output, input)


def _move(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    variance: Tensor,
    input: Tensor,
    momentum: float,
) -> None:
    """Move the running statistics towards the batch's, in place and, as torch, unseen by autograd.

    Else a layer that is used twice could not be computed by torch here and by us there: torch's own
    formula saves the running statistics, although it does not need them in training.
    """
    count = input.numel() // input.size(1)
    unbiased = variance * (count / (count - 1))  # as torch
    if not (torch.compiler.is_compiling() or in_torch_func()):
        running_mean, running_var = (
            running_mean.data,
            running_var.data,
        )  # no version of theirs counts
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def _check(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
) -> None:
    if input.dim() < 2:
        raise RuntimeError(f"batch_norm needs input (N, C, …), but got {list(input.shape)}")
    channels = input.size(1)
    if training and input.size(0) * math.prod(input.shape[2:]) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size "
            f"{list(input.shape)}"
        )
    named = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    for name, tensor in named.items():
        if tensor is not None and tensor.shape != (channels,):
            raise RuntimeError(
                f"{name} should contain {channels} elements, but got shape {list(tensor.shape)}"
            )
    if not training and (running_mean is None or running_var is None) and input.numel():
        raise RuntimeError(
            "Expected running_mean and running_var to be defined when training=False"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    algorithm: str = "direct",
) -> Tensor:
    """``torch.nn.functional.batch_norm`` with the backward of ``algorithm``.

    Args:
        input: (N, C, …).
        running_mean, running_var: (C,) or None; in training they are moved towards the batch's by
            ``momentum``, in place, the variance being the unbiased one. An empty batch leaves them
            as they are.
        weight, bias: γ and β, (C,) or None for 1 and 0.
        training: Normalise by the batch's statistics instead of the running ones.
        momentum: Share of the new statistics, 0…1.
        eps: ε, added to the variance.
        algorithm: A name from ``cnnexp.ops.algorithm_names("batch_norm")``.

    Returns:
        The shape of ``input``.

    Raises:
        RuntimeError: Shapes do not fit together, or running statistics are missing (as torch).
        ValueError: Training on one value a channel or with ``eps`` ≤ 0 (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """
    return get_algorithm("batch_norm", algorithm)(
        input, running_mean, running_var, weight, bias, training, momentum, eps
    )


register(
    Algorithm(
        op="batch_norm",
        name="direct",
        function=_direct,
        summary="the gradient less its mean and its projection on the normalised input",
    )
)
register(
    Algorithm(
        op="batch_norm",
        name="native",
        function=F.batch_norm,
        summary="torch.nn.functional.batch_norm and torch's autograd, the baseline",
        dtypes=(),
    )
)
