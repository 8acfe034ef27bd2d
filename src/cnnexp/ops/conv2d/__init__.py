"""2-D convolution with hand-derived gradients. The formulas stand in the algorithms' files."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.windows import IntPair
from cnnexp.ops.conv2d import (  # noqa: F401  (they register)
    depthwise,
    direct,
    fft,
    im2col,
    implicit_gemm,
    narrow,
    reference,
)
from cnnexp.ops.registry import declare, get_algorithm

__all__ = ["conv2d"]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    algorithm: str = "direct",
) -> Tensor:
    """``torch.nn.functional.conv2d`` with the backward of ``algorithm``.

    Args:
        input: (N, C_in, H, W) or (C_in, H, W).
        weight: (C_out, C_in/groups, K_h, K_w).
        bias: (C_out,) or None.
        stride: Step of the window, int or (s_h, s_w), ≥ 1.
        padding: Zeros on both sides, int or (p_h, p_w), ≥ 0; or 'valid' (none) or 'same' (as many
            as keep the size; stride 1 only).
        dilation: Step within the window, int or (d_h, d_w), ≥ 1.
        groups: Split the channels into so many independent convolutions.
        algorithm: A name from ``cnnexp.ops.algorithm_names("conv2d")``. ``depthwise`` computes as
            ``direct`` what it has no kernels for, all but a kernel a channel on the CPU; and so does
            ``narrow``, which has some for stride 1 and at most 32 channels on the CPU.

    Returns:
        (N, C_out, P, Q) or (C_out, P, Q).

    Raises:
        RuntimeError: Shapes, ranges, dtypes or devices do not fit together (as torch).
        TypeError: An argument has the wrong type (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x = torch.arange(9.0).view(1, 1, 3, 3)
        >>> w = torch.ones(1, 1, 2, 2, requires_grad=True)
        >>> y = ops.conv2d(x, w, algorithm="im2col")
        >>> y[0, 0].tolist()
        [[8.0, 12.0], [20.0, 24.0]]
        >>> y[0, 0, 0, 0].backward()
        >>> w.grad[0, 0].tolist()  # the window that y[0, 0] saw
        [[0.0, 1.0], [3.0, 4.0]]
    """
    function = get_algorithm("conv2d", algorithm)
    return function(input, weight, bias, stride, padding, dilation, groups)


declare(conv2d, native=F.conv2d)
