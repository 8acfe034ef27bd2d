"""Average-pooling over columns: each window becomes a column, its sum one reduction.

    X[n, c, k, l] = x[n, c, window l at offset k]        Y[n, c, l] = Σ_k X[n, c, k, l] / D[l]
    ∂L/∂X[n, c, k, l] = ∂L/∂Y[n, c, l] / D[l]            for every k

and ∂L/∂x adds the columns back to where they were read (col2im).

Source: docs/derivation.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.windows import WindowGeometry
from cnnexp.ops.avg_pool2d.function import register_avg_pool2d


def forward(input: Tensor, geometry: WindowGeometry, divisor: Tensor) -> Tensor:
    """x: (N, C, H, W), divisor: (P, Q) → y: (N, C, P, Q)."""
    padded = geometry.pad(input)
    if torch.compiler.is_compiling():  # whose sizes may be unknown: not to be multiplied to P·Q
        return sum(geometry.pieces(padded)) / divisor
    return geometry.as_view(padded).flatten(-2).sum(-1) / divisor


def grad_input(grad_output: Tensor, geometry: WindowGeometry, divisor: Tensor) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C, P, Q) → (N, C, H, W)."""
    n, c, rows, columns = grad_output.shape
    offsets = math.prod(geometry.kernel_size)
    shares = (grad_output / divisor).reshape(n, c, 1, rows * columns)
    matrix = shares.expand(-1, -1, offsets, -1).reshape(n, c * offsets, rows * columns)
    folded = F.fold(matrix, geometry.padded_size(), geometry.kernel_size, stride=geometry.stride)
    return geometry.crop(folded)


register_avg_pool2d(
    "im2col", forward, grad_input, summary="windows as columns, the sum as one reduction over them"
)
