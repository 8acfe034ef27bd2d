"""Max-pooling with the winners' indices kept: the backward sends each gradient to its winner.

    y[n, c, p, q] = x[n, c, (i*, j*)(p, q)]        ∂L/∂x[n, c, (i*, j*)(p, q)] += ∂L/∂y[n, c, p, q]

The forward is torch's own primitive; the backward is one scatter: plain where windows do not
overlap (no two write to the same element), adding where they do.

Source: docs/derivation.md.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.windows import WindowGeometry
from cnnexp.ops.layout import is_channels_last
from cnnexp.ops.max_pool2d.function import register_max_pool2d


def forward(input: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """x: (N, C, H, W) → y and the winners' positions i·W + j, int64, both (N, C, P, Q)."""
    g = geometry
    return F.max_pool2d(
        input, g.kernel_size, g.stride, g.padding, g.dilation, g.ceil_mode, return_indices=True
    )


def grad_input(grad_output: Tensor, indices: Tensor, geometry: WindowGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C, P, Q) and the winners' indices → (N, C, H, W)."""
    (n, c, rows, columns), (h, w) = grad_output.shape, geometry.input_size
    # In channels_last memory the positions are the rows of a (H·W, C) matrix: scattering along
    # them needs no copy into another layout.
    last = is_channels_last(indices) and not indices.is_contiguous()
    if last:
        grads = grad_output.permute(0, 2, 3, 1).reshape(n, rows * columns, c)  # (N, P·Q, C)
        places = indices.permute(0, 2, 3, 1).reshape(n, rows * columns, c)
        zeros = grad_output.new_zeros(n, h * w, c)
    else:
        grads, places = (t.reshape(n, c, rows * columns) for t in (grad_output, indices))
        zeros = grad_output.new_zeros(n, c, h * w)
    axis = 1 if last else 2
    if geometry.overlapping:
        spread = zeros.scatter_add(axis, places, grads)
    else:
        spread = zeros.scatter(axis, places, grads)
    return spread.reshape(n, h, w, c).permute(0, 3, 1, 2) if last else spread.reshape(n, c, h, w)


register_max_pool2d(
    "direct", forward, grad_input, summary="torch's forward, one scatter to the winners as backward"
)
