"""2-D average-pooling with hand-derived gradients. The formulas stand in the algorithms' files."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.windows import IntPair
from cnnexp.ops.avg_pool2d import direct, im2col, reference  # noqa: F401  (they register)
from cnnexp.ops.registry import declare, get_algorithm

__all__ = ["avg_pool2d"]


def avg_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    algorithm: str = "direct",
) -> Tensor:
    """``torch.nn.functional.avg_pool2d`` with the backward of ``algorithm``.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size: Window, int or (K_h, K_w).
        stride: Step of the window, int or (s_h, s_w), ≥ 1; the window's size if None.
        padding: Zeros on both sides, int or (p_h, p_w), at most half the window.
        ceil_mode: Let the last window hang over the far edge.
        count_include_pad: Count the padding's zeros in the divisor.
        divisor_override: Divide by this number instead of the count; not 0.
        algorithm: A name from ``cnnexp.ops.algorithm_names("avg_pool2d")``.

    Returns:
        (N, C, P, Q) or (C, P, Q).

    Raises:
        RuntimeError: Shapes or ranges do not fit together (as torch).
        TypeError: An argument has the wrong type (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.tensor([[[1.0, 5.0], [2.0, 4.0]]], requires_grad=True)
        >>> y = ops.avg_pool2d(x, 2)
        >>> y.item()
        3.0
        >>> y.sum().backward()
        >>> x.grad[0].tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """
    function = get_algorithm("avg_pool2d", algorithm)
    return function(
        input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def _native(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """torch's, which on a GPU gives a wrong ∂L/∂x of padded channels_last images, but a right one of others.

    Source: pytorch/pytorch#188344, seen with torch 2.11.
    """
    if input.is_cuda and padding not in (0, (0, 0)):
        input = input.contiguous()
    counts = count_include_pad, divisor_override
    return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, *counts)


declare(avg_pool2d, native=_native)
