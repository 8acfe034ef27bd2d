"""Max-pooling over rows: each window becomes a row, its maximum one reduction.

    X[n, p, q, k, c] = x[n, c, window (p, q) at offset k]
    k*[n, p, q, c] = argmax_k X[n, p, q, k, c]        y[n, c, p, q] = X[n, p, q, k*, c]
    ∂L/∂X[n, p, q, k, c] = ∂L/∂y[n, c, p, q] · [k = k*]

and ∂L/∂x adds the rows back to where they were read (col2im). Ties go to the first element in
row-major order and a NaN wins, as in torch. The channel runs fastest; results are in channels_last
memory.

Source: docs/derivation.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry, cut
from cnnexp.ops.max_pool2d.function import register_max_pool2d


def _rows(padded: Tensor, geometry: WindowGeometry) -> Tensor:
    """Padded images (…, C) in channels_last order → X (…, P, Q, K_h·K_w, C), offsets row-major."""
    return torch.stack(list(geometry.pieces(padded, -3)), dim=-2)


def _places(geometry: WindowGeometry, device: torch.device) -> Tensor:
    """(P, Q, K_h·K_w, 1): the position i·W + j that each element of a row was read from; −1: off."""
    h, w = geometry.input_size
    places = geometry.pad(torch.arange(h * w, device=device).reshape(h, w), -1)
    return _rows(places.unsqueeze(-1), geometry)


def forward(input: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """x: (N, C, H, W) → y and the winners' positions i·W + j, int64, both (N, C, P, Q)."""
    matrix = _rows(geometry.pad(input, -torch.inf).permute(0, 2, 3, 1), geometry)
    places = _places(geometry, input.device)
    peak = matrix.amax(3, keepdim=True)  # (N, P, Q, 1, C); NaN if any is
    leads = (((matrix == peak) | matrix.isnan()) & (places >= 0)).to(torch.uint8)
    # max(dim) names the first of equals, as documented, and is ten times faster than argmax on CPU
    first = leads.max(3, keepdim=True).indices
    last = matrix.size(3) - 1 - leads.flip(3).max(3, keepdim=True).indices
    winner = torch.where(peak.isnan(), last, first)  # torch takes the last of several NaN
    output = matrix.gather(3, winner).squeeze(3)
    indices = places.expand_as(matrix).gather(3, winner).squeeze(3)
    return output.permute(0, 3, 1, 2), indices.permute(0, 3, 1, 2)


def grad_input(grad_output: Tensor, indices: Tensor, geometry: WindowGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C, P, Q) and the winners' indices → (N, C, H, W)."""
    n, c = grad_output.shape[:2]
    grads, winners = grad_output.permute(0, 2, 3, 1), indices.permute(0, 2, 3, 1)
    places = _places(geometry, grad_output.device)
    padded = grad_output.new_zeros(n, *geometry.padded_size(), c)
    for offset, (_, _, rows, columns) in enumerate(geometry.offsets()):
        cut(padded, rows, columns, 1).add_(torch.where(winners == places[:, :, offset], grads, 0))
    return geometry.crop(padded.permute(0, 3, 1, 2))


register_max_pool2d(
    "im2col", forward, grad_input, summary="windows as rows, the maximum as one reduction over them"
)
