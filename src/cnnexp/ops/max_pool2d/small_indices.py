"""Max-pooling that keeps each winner's place within its window, in as few bytes as hold it.

torch keeps the winners' positions i·W + j as int64, eight bytes an output, twice what an output of float32
takes. Relative to the window's first element they are small,

    (i* − i₀(p))·W + (j* − j₀(q)) ≤ (K_h − 1)·d_h·W + (K_w − 1)·d_w,

one byte up to a width of 253 for windows of 2 × 2, up to 126 for 3 × 3, else two or four. Places in one byte
have CPU kernels (``kernels.cpu.max_pool``), which write that byte and no index, and add gradients of bfloat16
in float32. Elsewhere forward and backward are those of ``direct``, with one pass over the indices more in
each; and so is the gradient of a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import max_pool as cpu
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.kernel_calls import way_to
from cnnexp.ops.max_pool2d import direct
from cnnexp.ops.max_pool2d.function import register_max_pool2d


def _first_places(geometry: WindowGeometry, device: torch.device) -> Tensor:
    """(P, Q): the position i₀·W + j₀ of each window's first element, which may lie on the padding."""
    g = geometry
    rows, columns = (
        torch.arange(count, device=device) * stride - padding
        for count, stride, padding in zip(g.output_size, g.stride, g.padding, strict=True)
    )
    return rows[:, None] * g.input_size[1] + columns


def _dtype(geometry: WindowGeometry) -> torch.dtype:
    """The smallest that holds each place within a window."""
    most = geometry.farthest
    if most <= torch.iinfo(torch.uint8).max:
        return torch.uint8
    return torch.int16 if most <= torch.iinfo(torch.int16).max else torch.int32


def forward(input: Tensor, geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """x: (N, C, H, W) → y and the winners' places within their windows, both (N, C, P, Q)."""
    if cpu.takes(input, geometry) and not in_forward_mode():
        return way_to(cpu.forward, input)(input, geometry)
    output, indices = direct.forward(input, geometry)
    return output, (indices - _first_places(geometry, input.device)).to(_dtype(geometry))


def indices_of(places: Tensor, geometry: WindowGeometry) -> Tensor:
    """The winners' positions i·W + j, int64, from their places: (N, C, P, Q)."""
    return places + _first_places(geometry, places.device)


def grad_input(grad_output: Tensor, indices: Tensor, geometry: WindowGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y and the winners' places: (N, C, P, Q) → (N, C, H, W)."""
    again = torch.is_grad_enabled() or in_forward_mode()  # only the formula has a gradient itself
    if not again and cpu.spreads(grad_output, indices):
        return way_to(cpu.grad_input, grad_output, indices)(grad_output, indices, geometry)
    return direct.grad_input(grad_output, indices_of(indices, geometry), geometry)


register_max_pool2d(
    "small_indices",
    forward,
    grad_input,
    indices_of,
    summary="as direct; the winners' places within their windows are kept, mostly one byte each",
)
