"""Convolution, bias, ReLU and pooling in one op. The formulas stand in ``fused``."""

from __future__ import annotations

from torch import Tensor

from cnnexp.geometry.pooling import Pool
from cnnexp.geometry.windows import IntPair
from cnnexp.ops.conv_relu_pool import fused, parts  # noqa: F401  (they register)
from cnnexp.ops.registry import declare, get_algorithm

__all__ = ["Pool", "conv_relu_pool"]


def conv_relu_pool(
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
    """``pool(relu(conv2d(input, weight, bias, …)))`` with the backward of ``algorithm``.

    Args:
        input: (N, C_in, H, W) or (C_in, H, W).
        weight: (C_out, C_in/groups, K_h, K_w).
        bias: (C_out,) or None.
        stride, padding, dilation, groups: Of the convolution, see ``cnnexp.ops.conv2d``.
        pool: The pooling; max-pooling 2×2 if None.
        algorithm: A name from ``cnnexp.ops.algorithm_names("conv_relu_pool")``. ``fused`` computes
            by its parts what it has no kernels for: on CPU groups, float16, and bfloat16 where the
            processor has no AVX512_BF16, anywhere windows of more than 254 elements (8 for
            average-pooling) and forward mode. On CPU the kernels are numba's, on CUDA devices Triton's.

    Returns:
        (N, C_out, P, Q) or (C_out, P, Q), P and Q those of the pooling.

    Raises:
        RuntimeError: Shapes or ranges do not fit together (as torch).
        TypeError: An argument has the wrong type (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.arange(25.0).view(1, 1, 5, 5)
        >>> w = torch.ones(1, 1, 2, 2, requires_grad=True)
        >>> y = ops.conv_relu_pool(x, w, torch.tensor([-78.0]), algorithm="direct")
        >>> y[0, 0].tolist()
        [[0.0, 0.0], [0.0, 6.0]]
        >>> y.sum().backward()
        >>> w.grad[0, 0].tolist()  # of the only window that won and passed the ReLU
        [[18.0, 19.0], [23.0, 24.0]]
    """
    function = get_algorithm("conv_relu_pool", algorithm)
    return function(input, weight, bias, stride, padding, dilation, groups, pool or Pool())


declare(conv_relu_pool)  # whose native way is that of its parts
