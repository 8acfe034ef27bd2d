"""2-D max-pooling with hand-derived gradients. The formulas stand in the algorithms' files."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.windows import IntPair
from cnnexp.ops.max_pool2d import (  # noqa: F401  (they register)
    direct,
    im2col,
    reference,
    small_indices,
)
from cnnexp.ops.registry import declare, get_algorithm

__all__ = ["max_pool2d"]


def max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    algorithm: str = "direct",
) -> Tensor | tuple[Tensor, Tensor]:
    """``torch.nn.functional.max_pool2d`` with the backward of ``algorithm``.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size: Window, int or (K_h, K_w).
        stride: Step of the window, int or (s_h, s_w), ≥ 1; the window's size if None.
        padding: −∞ on both sides, int or (p_h, p_w), at most half the window.
        dilation: Step within the window, int or (d_h, d_w), ≥ 1.
        ceil_mode: Let the last window hang over the far edge.
        return_indices: Return the winners' positions i·W + j as well.
        algorithm: A name from ``cnnexp.ops.algorithm_names("max_pool2d")``.

    Returns:
        (N, C, P, Q) or (C, P, Q); with ``return_indices`` a pair, the indices as int64. Ties go to
        the first element in row-major order, NaN propagates.

    Raises:
        RuntimeError: Shapes or ranges do not fit together (as torch).
        TypeError: An argument has the wrong type (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([[[[1.0, 5.0], [2.0, 5.0]]]], requires_grad=True)
        >>> y, indices = ops.max_pool2d(x, 2, return_indices=True)
        >>> y.item(), indices.item()
        (5.0, 1)
        >>> y.sum().backward()
        >>> x.grad[0, 0].tolist()  # of two equal maxima the first gets all of it
        [[0.0, 1.0], [0.0, 0.0]]
    """
    function = get_algorithm("max_pool2d", algorithm)
    return function(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


declare(max_pool2d, native=F.max_pool2d)
