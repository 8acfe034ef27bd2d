"""Batch normalisation, an activation, and a pooling if there is one, in one op.

The formulas stand in ``formulas``; with max-pooling, in ``pooled``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.described import Described, described, remembered
from cnnexp.geometry.pooling import Pool
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import batch_norm as cpu
from cnnexp.ops.batch_norm import batch_statistics, by_its_own, statistics_of
from cnnexp.ops.batch_norm_act import fused, pooled
from cnnexp.ops.batch_norm_act.formulas import (
    ACTIVATIONS,
    activated_by_torch,
    by_formulas,
    check,
)
from cnnexp.ops.conv_relu_pool.parts import pooled as pooled_apart
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.kernel_calls import way_to
from cnnexp.ops.recomputed import recomputable
from cnnexp.ops.registry import Algorithm, declare, get_algorithm, register

__all__ = ["ACTIVATIONS", "activated_by_torch", "batch_norm_act"]


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
        pool: Pool | None = None,
    ) -> Tensor:
        check(activation)
        running = running_mean, running_var
        by_batch = by_its_own(input, *running, weight, bias, training, eps)
        by_kernel = kernels and cpu.takes(input, weight, bias) and not in_forward_mode()
        of = way_to(cpu.statistics, input) if by_kernel else batch_statistics
        mean, variance = statistics_of(input, *running, training, momentum, of)
        if by_kernel and not training:  # the running ones may be of half precision
            mean, variance = (each.to(cpu.precision(input)) for each in (mean, variance))
        tensors: Any = input, weight, bias, mean, variance
        options: Any = eps, by_batch, activation
        compute: Callable[..., Tensor] = fused.by_kernels if by_kernel else by_formulas
        windows = None if pool is None or not by_kernel else _windows(input, pool, weight, bias)
        if windows is not None:
            compute, options = pooled.by_kernels, (*options, windows)
        output = compute(*tensors, *options)
        if pool is not None and windows is None:
            return pooled_apart(output, pool, _pooling(pool, kernels))
        if not (recompute and output.requires_grad):
            return output
        # copies, as where parameters are sharded (FSDP) they are gone when a layer after this one needs them
        own = [None if each is None else each.clone() for each in (weight, bias)]
        return recomputable(output, compute, (input, *own, mean, variance), *options)

    return batch_norm_act


def _windows(input: Tensor, pool: Pool, *parameters: Tensor | None) -> Any:
    """The windows of ``pool``, if the kernels take it."""
    windows = remembered(_seeing, (described(input),), pool)
    return windows if windows is not None and pooled.takes(input, windows, *parameters) else None


def _seeing(image: Described, pool: Pool) -> WindowGeometry | None:
    """The windows of ``pool``, where they are of maxima and each reads something."""
    windows = pool.geometry(image)
    return None if pool.kind != "max" or windows.blind_windows() else windows


def _pooling(pool: Pool, kernels: bool) -> str:
    """The algorithm of a pooling by itself."""
    return "small_indices" if kernels and pool.kind == "max" else "direct"


def _native(input: Tensor, *arguments: Any) -> Tensor:
    *of_norm, activation, _recompute, pool = arguments
    check(activation)
    output = activated_by_torch(F.batch_norm(input, *of_norm), activation, inplace=True)
    return output if pool is None else pooled_apart(output, pool, "native")


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
    pool: Pool | None = None,
    *,
    algorithm: str = "fused",
) -> Tensor:
    """``pool(activation(batch_norm(input, …)))`` with the backward of ``algorithm``.

    Args:
        input: (N, C, …).
        running_mean, running_var, weight, bias, training, momentum, eps: See ``cnnexp.ops.batch_norm``.
        activation: ``"relu"``, ``"relu6"``, ``"hardswish"``, ``"silu"``, or ``"none"``.
        recompute: Whether ops of ours that read the output need not keep it for their backward: they
            compute it again, to the same bits, from ``input``. ``native`` keeps it in any case, and so
            does a pooling that is computed apart.
        pool: The pooling, see ``cnnexp.ops.Pool``; None for none. ``fused`` has kernels with max-pooling
            for images with the channels last, and takes the pooling apart where they do not serve.
        algorithm: A name from ``cnnexp.ops.algorithm_names("batch_norm_act")``. ``fused`` computes as
            ``direct`` what it has no kernels for: other devices than the CPU, float16, forward mode.

    Returns:
        The shape of ``input``, or (N, C, P, Q) with ``pool``.

    Raises:
        RuntimeError: Shapes or windows do not fit together, or running statistics are missing (as torch).
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
    return function(input, *of_norm, activation, recompute, pool)


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
