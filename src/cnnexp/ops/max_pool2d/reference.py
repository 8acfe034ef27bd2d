"""Max-pooling by definition: every window offset is looked at in row-major order.

    y[n, c, p, q] = max_{u,v} x[n, c, p·s_h + u·d_h − p_h, q·s_w + v·d_w − p_w]

over the (u, v) that lie on the image. Let (i*, j*)(p, q) be where the maximum was found; a small
change of any other element leaves y as it is, so

    ∂L/∂x[n, c, i, j] = Σ_{p,q : (i*, j*)(p, q) = (i, j)} ∂L/∂y[n, c, p, q]

Ties go to the first element in row-major order and a NaN wins, as in torch: an element takes the
lead if it is greater than the leader so far, or NaN.

Source: docs/derivation.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry, cut
from cnnexp.ops.max_pool2d.function import register_max_pool2d


def forward(input: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """x: (N, C, H, W) → y and the winners' positions i·W + j, int64, both (N, C, P, Q)."""
    h, w = geometry.input_size
    places = geometry.pad(torch.arange(h * w, device=input.device).view(h, w), -1)  # −1: off
    padded = geometry.pad(input, -torch.inf)
    leader = input.new_full((*input.shape[:2], *geometry.output_size), -torch.inf)
    winner = torch.full_like(leader, -1, dtype=torch.int64)
    for _, _, rows, columns in geometry.offsets():
        value, place = cut(padded, rows, columns), cut(places, rows, columns)
        # winner < 0: the first element on the image leads even if all of them are −inf
        takes = ((value > leader) | value.isnan() | (winner < 0)) & (place >= 0)
        leader, winner = torch.where(takes, value, leader), torch.where(takes, place, winner)
    return leader, winner


def grad_input(grad_output: Tensor, indices: Tensor, geometry: WindowGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C, P, Q) and the winners' indices → (N, C, H, W)."""
    rows, columns = geometry.output_size
    places = torch.arange(
        geometry.input_size[0] * geometry.input_size[1], device=grad_output.device
    )
    total = grad_output.new_zeros(*grad_output.shape[:2], places.numel())
    for p in range(rows):
        for q in range(columns):
            won = indices[..., p, q, None] == places  # (N, C, H·W), one True a plane
            total = total + torch.where(won, grad_output[..., p, q, None], 0)
    return total.reshape(*grad_output.shape[:2], *geometry.input_size)


register_max_pool2d(
    "reference",
    forward,
    grad_input,
    summary="by definition, one offset at a time; slow, the oracle",
)
