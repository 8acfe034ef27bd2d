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
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.kernels.cpu import batch_norm as cpu
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.layout import laid_out
from cnnexp.ops.precision import widened
from cnnexp.ops.registry import declare, get_algorithm
from cnnexp.ops.torch_internals import in_torch_func


def _summed(input: Tensor) -> list[int]:
    """All dimensions but the channel's."""
    return [0, *range(2, input.dim())]


def along(channel: Tensor, input: Tensor) -> Tensor:
    """(C,) → (C, 1, …, 1), to multiply with ``input`` (N, C, …)."""
    return channel.reshape(-1, *[1] * (input.dim() - 2))


def statistics(input: Tensor) -> tuple[Tensor, Tensor]:
    """μ and σ² of each channel of x: (N, C, …) → (C,), (C,)."""
    variance, mean = torch.var_mean(input, _summed(input), correction=0)
    return mean, variance


def scale(variance: Tensor, eps: float) -> Tensor:
    """The scale r from σ²: (C,)."""
    return (variance + eps).rsqrt()


def normalised(input: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """x̂ from x: (N, C, …), μ and r: (C,)."""
    return (input - along(mean, input)) * along(scale, input)


def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> Tensor:
    """The output y from x: (N, C, …), γ, β, μ and σ²: (C,)."""
    factor = _times(scale(variance, eps), weight)
    shifted = (input - along(mean, input)) * along(factor, input)
    return shifted if bias is None else shifted + along(bias, input)


def grad_input(
    grad_output: Tensor, centred: Tensor, scale: Tensor, weight: Tensor | None
) -> Tensor:
    """∂L/∂x in training from ∂L/∂y, x̂: (N, C, …), r and γ: (C,)."""
    dims = _summed(centred)
    shift = grad_output.mean(dims, keepdim=True)
    stretch = (grad_output * centred).mean(dims, keepdim=True)
    return along(_times(scale, weight), centred) * (grad_output - shift - centred * stretch)


def grad_input_in_evaluation(grad_output: Tensor, scale: Tensor, weight: Tensor | None) -> Tensor:
    """∂L/∂x in evaluation from ∂L/∂y: (N, C, …), r and γ: (C,)."""
    return grad_output * along(_times(scale, weight), grad_output)


def grad_weight(grad_output: Tensor, centred: Tensor) -> Tensor:
    """∂L/∂γ from ∂L/∂y and x̂: (N, C, …) → (C,)."""
    return grad_bias(grad_output * centred)


def grad_bias(grad_output: Tensor) -> Tensor:
    """∂L/∂β from ∂L/∂y: (N, C, …) → (C,)."""
    return grad_output.sum(_summed(grad_output))


def _times(scale: Tensor, weight: Tensor | None) -> Tensor:
    return scale if weight is None else scale * weight


def _tangent(of_input: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function of y's tangent; ``of_input`` is ∂L/∂x, since the Jacobian of x → y is symmetric."""

    def tangent(
        input_tangent: Tensor | None,
        weight_tangent: Tensor | None,
        bias_tangent: Tensor | None,
        centred: Tensor,
        scale: Tensor,
        weight: Tensor | None,
    ) -> Tensor:
        moved = torch.zeros_like(centred)
        if input_tangent is not None:
            moved = moved + of_input(input_tangent, centred, scale, weight)
        if weight_tangent is not None:
            moved = moved + centred * along(weight_tangent, centred)
        return moved if bias_tangent is None else moved + along(bias_tangent, centred)

    return tangent


_in_training = differentiable(
    forward,
    input=grad_input,
    weight=grad_weight,
    bias=grad_bias,
    # μ and σ² are worked out again in the backward, so that it can itself be differentiated
    shared={("mean", "variance"): statistics, "scale": scale, "centred": normalised},
    tangent=_tangent(grad_input),
    widens="all",
)
_in_evaluation = differentiable(
    forward,
    input=grad_input_in_evaluation,
    weight=grad_weight,
    bias=grad_bias,
    shared={"scale": scale, "centred": normalised},
    tangent=_tangent(lambda tangent, _, *rest: grad_input_in_evaluation(tangent, *rest)),
    widens="all",
)


def _direct(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    running = running_mean, running_var
    by_batch = by_its_own(input, *running, weight, bias, training, eps)
    mean, variance = statistics_of(input, *running, training, momentum, batch_statistics)
    function = _in_training if by_batch else _in_evaluation
    return laid_out(function(input, weight, bias, mean, variance, eps), input)


def batch_statistics(input: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`statistics` of ``input``, in float32 if it is of half precision."""
    return statistics(widened(input))


def by_its_own(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
) -> bool:
    """Whether a batch is normalised by its own statistics, after a check of all arguments (as torch)."""
    running = {"running_mean": running_mean, "running_var": running_var}
    _check(input, training, **running, weight=weight, bias=bias)
    if training and eps <= 0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    return training and input.numel() > 0


def statistics_of(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    of: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """μ and σ² to normalise by; in training the batch's, by ``of``, towards which the running ones move."""
    if input.numel() == 0:
        # no statistics to normalise by and none to remember (as torch)
        return input.new_zeros(input.size(1)), input.new_ones(input.size(1))
    if not training:
        assert running_mean is not None  # _check
        assert running_var is not None
        # copies: a training step may move them before the backward
        return running_mean.clone(), running_var.clone()
    mean, variance = of(input.detach())
    # before the Function: a checkpoint ends its recomputation there, and torch moves them first
    if running_mean is not None and running_var is not None:
        _move(running_mean, running_var, mean, variance, input, momentum)
    return mean, variance


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
    if not (torch.compiler.is_compiling() or in_torch_func()):
        if cpu.move(running_mean, running_var, mean, variance, count, momentum):
            return
        # no version of theirs counts
        running_mean, running_var = running_mean.data, running_var.data
    unbiased = variance * (count / (count - 1))  # as torch
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def _check(input: Tensor, training: bool, **of_channels: Tensor | None) -> None:
    if input.dim() < 2:
        raise RuntimeError(f"batch_norm needs input (N, C, …), but got {list(input.shape)}")
    channels = input.size(1)
    if training and input.size(0) * math.prod(input.shape[2:]) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size "
            f"{list(input.shape)}"
        )
    for name, tensor in of_channels.items():
        if tensor is not None and tensor.shape != (channels,):
            raise RuntimeError(
                f"{name} should contain {channels} elements, but got shape {list(tensor.shape)}"
            )
    missing = {of_channels[name] is None for name in ("running_mean", "running_var")}
    if not training and True in missing and input.numel():
        raise RuntimeError(
            "Expected running_mean and running_var to be defined when training=False"
        )
    if len(missing) > 1:  # one of the two
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

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([[1.0], [3.0]], requires_grad=True)
        >>> mean, variance = torch.zeros(1), torch.ones(1)
        >>> y = ops.batch_norm(x, mean, variance, training=True)
        >>> y.detach().round().tolist()
        [[-1.0], [1.0]]
        >>> mean, variance  # a tenth of the way to the batch's
        (tensor([0.2000]), tensor([1.1000]))
        >>> y.sum().backward()
        >>> x.grad.tolist()  # to shift all inputs shifts no output
        [[0.0], [0.0]]
    """
    return get_algorithm("batch_norm", algorithm)(
        input, running_mean, running_var, weight, bias, training, momentum, eps
    )


declare(
    batch_norm,
    native=F.batch_norm,
    direct=_direct,
    summary="the gradient less its mean and its projection on the normalised input",
)
