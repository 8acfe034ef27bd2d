"""Average-pooling as a convolution with ones: its backward is a convolution with ones, too.

    y = (x ∗ 1) / D        ∂L/∂x = (∂L/∂y / D) spread out by the stride, then ∗ 1

since the all-ones kernel equals itself flipped. Where windows neither overlap nor leave gaps, the
second convolution only repeats each share K_h × K_w times.

Source: docs/derivation.md.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.windows import WindowGeometry
from cnnexp.ops.avg_pool2d.function import register_avg_pool2d


def forward(input: Tensor, geometry: WindowGeometry, divisor: Tensor) -> Tensor:
    """x: (N, C, H, W), divisor: (P, Q) → y: (N, C, P, Q)."""
    g = geometry
    sums = F.avg_pool2d(input, g.kernel_size, g.stride, g.padding, g.ceil_mode, divisor_override=1)
    return sums / divisor


def grad_input(grad_output: Tensor, geometry: WindowGeometry, divisor: Tensor) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C, P, Q) → (N, C, H, W)."""
    g, shares, (n, c, rows, columns) = geometry, grad_output / divisor, grad_output.shape
    if g.stride == g.kernel_size:
        k_h, k_w = g.kernel_size
        spread = shares.reshape(n, c, rows, 1, columns, 1).expand(-1, -1, -1, k_h, -1, k_w)
        spread = spread.reshape(n, c, rows * k_h, columns * k_w)
    else:  # every plane (n, c) by itself: one channel
        ones = shares.new_ones(1, 1, *g.kernel_size)
        planes = shares.reshape(n * c, 1, rows, columns)
        spread = F.conv_transpose2d(planes, ones, stride=g.stride)
        spread = spread.reshape(n, c, *spread.shape[2:])
    missing = [n - m for n, m in zip(g.padded_size(), spread.shape[2:], strict=True)]
    return g.crop(F.pad(spread, (0, missing[1], 0, missing[0])))


register_avg_pool2d(
    "direct", forward, grad_input, summary="torch's forward, a convolution with ones as backward"
)
