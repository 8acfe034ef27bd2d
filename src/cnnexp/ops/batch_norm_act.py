"""Batch normalisation and an activation in one op.

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

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.kernels.cpu import batch_norm as cpu
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.batch_norm import (
    along,
    batch_statistics,
    by_its_own,
    grad_bias,
    grad_weight,
    normalised,
    statistics_of,
)
from cnnexp.ops.batch_norm import forward as normalised_output
from cnnexp.ops.batch_norm import grad_input as grad_norm
from cnnexp.ops.batch_norm import grad_input_in_evaluation as grad_norm_in_evaluation
from cnnexp.ops.batch_norm import scale as scale_of
from cnnexp.ops.batch_norm import statistics as batch_mean_and_variance
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.kernel_calls import way_to
from cnnexp.ops.layout import laid_out
from cnnexp.ops.precision import widened
from cnnexp.ops.recomputed import recomputable
from cnnexp.ops.registry import Algorithm, declare, get_algorithm, register

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

# The same by the CPU's kernels.


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


class _Dense(NamedTuple):
    """What the formulas of the gradients need."""

    grad_value: Tensor
    centred: Tensor
    scale: Tensor


def _densely(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    training: bool,
    activation: str,
) -> _Dense | None:
    """With ``create_graph`` what the formulas need, which can be differentiated again; else None."""
    if not torch.is_grad_enabled():
        return None
    image = widened(input)
    mean, variance = statistics(image, mean, variance, training)
    scale = scale_of(variance, eps)
    centred = normalised(image, mean, scale)
    found = through(widened(grad_output), value(centred, weight, bias), activation)
    return _Dense(found, centred, scale)


def _joint(training: bool) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    def gradients(
        dense: _Dense | None,
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
        of_weight = grad_weight(dense.grad_value, dense.centred)
        of_input = grad_input(*dense, weight, training).to(input.dtype)
        return of_input, of_weight, grad_bias(dense.grad_value)

    return gradients


_in_training, _in_evaluation = (
    differentiable(
        _forward,
        input=lambda of_input: of_input,
        weight=lambda of_weight, weight: of_weight.to(weight.dtype),
        bias=lambda of_bias, bias: of_bias.to(bias.dtype),
        shared={"dense": _densely, ("of_input", "of_weight", "of_bias"): _joint(training)},
    )
    for training in (True, False)
)


def _by(kernels: bool) -> Callable[..., Tensor]:
    """The op by the kernels where they take it, or by the formulas anywhere."""

    def batch_norm_act(  # noqa: PLR0913 (those of the op)
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        activation: str = "relu",
        recompute: bool = False,
    ) -> Tensor:
        _check(activation)
        running = running_mean, running_var
        by_batch = by_its_own(input, *running, weight, bias, training, eps)
        fused = kernels and cpu.takes(input, weight, bias) and not in_forward_mode()
        of = way_to(cpu.statistics, input) if fused else batch_statistics
        mean, variance = statistics_of(input, *running, training, momentum, of)
        if fused:  # the running ones may be of half precision
            mean, variance = (each.to(cpu.precision(input)) for each in (mean, variance))
        tensors, options = (input, weight, bias, mean, variance), (eps, by_batch, activation)
        function = (_in_training if by_batch else _in_evaluation) if fused else _by_formulas
        output = function(*tensors, *options)
        if not (recompute and output.requires_grad):
            return output
        # copies, as where parameters are sharded (FSDP) they are gone when a layer after this one needs them
        own = [None if each is None else each.clone() for each in (weight, bias)]
        return recomputable(output, function, (input, *own, mean, variance), *options)

    return batch_norm_act


def _by_formulas(input: Tensor, *arguments: Any) -> Tensor:
    return laid_out(_dense(input, *arguments), input)


def _native(input: Tensor, *arguments: Any) -> Tensor:
    *of_norm, activation, _recompute = arguments
    _check(activation)
    return activated_by_torch(F.batch_norm(input, *of_norm), activation, inplace=True)


def activated_by_torch(value: Tensor, activation: str, inplace: bool = False) -> Tensor:
    """act(u) by torch's own function, which may leave it in ``value``."""
    return value if activation == "none" else getattr(F, activation)(value, inplace=inplace)


def _check(activation: str) -> None:
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"unknown activation '{activation}'; known: {known}")


def batch_norm_act(  # noqa: PLR0913 (those of torch's and the activation)
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    recompute: bool = False,
    *,
    algorithm: str = "fused",
) -> Tensor:
    """``activation(batch_norm(input, …))`` with the backward of ``algorithm``.

    Args:
        input: (N, C, …).
        running_mean, running_var, weight, bias, training, momentum, eps: See ``cnnexp.ops.batch_norm``.
        activation: ``"relu"``, ``"relu6"``, ``"hardswish"``, ``"silu"``, or ``"none"``.
        recompute: Whether ops of ours that read the output need not keep it for their backward: they
            compute it again, to the same bits, from ``input``. ``native`` keeps it in any case.
        algorithm: A name from ``cnnexp.ops.algorithm_names("batch_norm_act")``. ``fused`` computes as
            ``direct`` what it has no kernels for: other devices than the CPU, float16, forward mode.

    Returns:
        The shape of ``input``.

    Raises:
        RuntimeError: Shapes do not fit together, or running statistics are missing (as torch).
        ValueError: Training on one value a channel or with ``eps`` ≤ 0 (as torch), or an unknown
            activation.
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([[1.0], [3.0], [8.0]], dtype=torch.float64, requires_grad=True)
        >>> y = ops.batch_norm_act(x, None, None, training=True)
        >>> y.detach().round(decimals=2).tolist()
        [[0.0], [0.0], [1.36]]
        >>> y.sum().backward()  # the one that passes moves all by mean and variance
        >>> x.grad.round(decimals=3).tolist()
        [[0.044], [-0.061], [0.017]]
    """
    function = get_algorithm("batch_norm_act", algorithm)
    of_norm = running_mean, running_var, weight, bias, training, momentum, eps
    return function(input, *of_norm, activation, recompute)


declare(
    batch_norm_act,
    direct=_by(kernels=False),
    summary="the gradient of the normalisation, of the gradient where the activation passes it",
)
register(
    Algorithm(
        op="batch_norm_act",
        name="native",
        function=_native,
        summary="torch's batch_norm and activation one after the other, and its autograd",
        dtypes=(),
    )
)
_ONE_PASS = (
    "one pass for the statistics, one for the output, two for the gradients; x alone is kept"
)
_fused = _by(kernels=True)


def _alone(input: Tensor, *arguments: Any) -> Tensor:
    """A batch normalisation that nothing activates."""
    return _fused(input, *arguments, "none")


register(Algorithm("batch_norm", "fused", _alone, _ONE_PASS))
register(Algorithm("batch_norm_act", "fused", _fused, _ONE_PASS))
