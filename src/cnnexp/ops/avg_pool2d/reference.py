"""Average-pooling by definition: one window at a time.

    y[n, c, p, q] = (1 / D[p, q]) Σ_{u,v} x[n, c, p·s_h + u − p_h, q·s_w + v − p_w]

with x = 0 off the image and D the divisor of the window. Each element of a window has the same
weight in y, so each receives the same share of its gradient:

    ∂L/∂x[window (p, q)] += ∂L/∂y[n, c, p, q] / D[p, q]

Source: docs/derivation.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry, cut
from cnnexp.ops.avg_pool2d.function import register_avg_pool2d


def forward(input: Tensor, geometry: WindowGeometry, divisor: Tensor) -> Tensor:
    """x: (N, C, H, W), divisor: (P, Q) → y: (N, C, P, Q)."""
    padded = geometry.pad(input)
    sums = [cut(padded, rows, columns).sum((-2, -1)) for _, _, rows, columns in geometry.windows()]
    output = torch.stack(sums, dim=-1).reshape(*input.shape[:2], *geometry.output_size)
    return output / divisor


def grad_input(grad_output: Tensor, geometry: WindowGeometry, divisor: Tensor) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C, P, Q) → (N, C, H, W)."""
    shares = grad_output / divisor
    padded = grad_output.new_zeros(*grad_output.shape[:2], *geometry.padded_size())
    for p, q, rows, columns in geometry.windows():
        cut(padded, rows, columns).add_(shares[..., p, q, None, None])
    return geometry.crop(padded)


register_avg_pool2d(
    "reference",
    forward,
    grad_input,
    summary="by definition, one window at a time; slow, the oracle",
)
