"""Convolution, bias, tanh and pooling in one op. The formulas stand in ``fused``."""

from __future__ import annotations

from torch import Tensor

from cnnexp.geometry.pooling import Pool
from cnnexp.geometry.windows import IntPair
from cnnexp.ops.conv_tanh_pool import fused, parts  # noqa: F401  (they register)
from cnnexp.ops.registry import declare, get_algorithm

__all__ = ["conv_tanh_pool"]


def conv_tanh_pool(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    pool: Pool | None = None,
    *,
    algorithm: str = "fused",
) -> Tensor:
    """``pool(tanh(conv2d(input, weight, bias, …)))`` with the backward of ``algorithm``.

    Args:
        input: (N, C_in, H, W) or (C_in, H, W).
        weight: (C_out, C_in/groups, K_h, K_w).
        bias: (C_out,) or None.
        stride, padding, dilation, groups: Of the convolution, see ``cnnexp.ops.conv2d``.
        pool: The pooling; None for none.
        algorithm: A name from ``cnnexp.ops.algorithm_names("conv_tanh_pool")``. ``fused`` computes by its
            parts what it has no kernels for: max-pooling, strides, groups, more than 32 channels, more
            padding than the kernel reaches, other devices than the CPU, float16, and forward mode.

    Returns:
        (N, C_out, P, Q) or (C_out, P, Q), P and Q those of the pooling, or of the convolution without.

    Raises:
        RuntimeError: Shapes or ranges do not fit together (as torch).
        TypeError: An argument has the wrong type (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([[[[0.0, 1.0], [2.0, 9.0]]]])
        >>> w = torch.ones(1, 1, 1, 1, requires_grad=True)
        >>> y = ops.conv_tanh_pool(x, w, pool=ops.Pool("avg"), algorithm="direct")
        >>> round(y.item(), 4)
        0.6814
        >>> y.sum().backward()
        >>> round(w.grad.item(), 4)  # x·(1 − tanh²(x))/4, of which the saturated 9 has no part
        0.1403
    """
    function = get_algorithm("conv_tanh_pool", algorithm)
    return function(input, weight, bias, stride, padding, dilation, groups, pool)


declare(conv_tanh_pool)  # whose native way is that of its parts
