"""Convolution as products of matrices, of which none is laid out; the formulas are those of ``im2col``.

A pixel of y, of all images at once, is a matrix of N rows,

    y[:, :, p] = Σ_t x[:, :, i(p, t)] · W_tᵀ        i(p, t) the pixel under tap t of window p

a sum over those taps that stand on a pixel: what ``im2col`` copies, and multiplies by zeros, is a list of
pairs (i, t) here. ∂L/∂x goes through the same pairs, sorted by i, and ∂L/∂W_t is the sum over those of t,

    ∂L/∂x[:, :, i] = Σ_{p, t} ∂L/∂y[:, :, p] · W_t        ∂L/∂W_t = Σ_{p, i} ∂L/∂y[:, :, p]ᵀ · x[:, :, i]

A 3×3 kernel on images of 2×2 stands on 16 pixels in 36, on 4×4 on 100 in 144. That, and that all that is
multiplied comes from the cache, is why small images of many channels, the last layers of deep networks,
take a part of the time that a library's kernels take, which are made for large ones. bfloat16 is summed in
float32 and rounded once.

What the kernels have not got is computed as by ``direct``: groups of fewer than 16 channels, in bfloat16 of
an odd number; fewer than eight images (of 1×1 kernels, pixels); large images; other devices;
float64, float16; forward mode; and so are gradients of single samples and the gradient of a gradient.

Source: Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning" (2014), section 3, for the name and
the lists in place of the matrix; docs/derivation.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.kernels.cpu import implicit as cpu
from cnnexp.ops.autocast import cast_for_autocast
from cnnexp.ops.conv2d import direct
from cnnexp.ops.conv2d.function import register_conv2d
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.kernel_calls import way_to


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y from x: (N, C_in, H, W), w: (C_out, C_in/groups, K_h, K_w), b: (C_out,) → (N, C_out, P, Q)."""
    if in_forward_mode() or not cpu.takes(input, geometry, input.size(1), len(weight)):
        return direct.forward(input, weight, bias, geometry)
    tensors = (input, weight) if bias is None else (input, weight, bias)
    return way_to(cpu.forward, *tensors)(input, weight, bias, geometry)


def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C_out, P, Q) and w → (N, C_in, H, W)."""
    taken = cpu.takes(grad_output, geometry, weight.size(1) * geometry.groups, len(weight))
    if _densely() or not taken or grad_output.dtype != weight.dtype:
        return direct.grad_input(grad_output, weight, geometry)
    return way_to(cpu.grad_input, grad_output, weight)(grad_output, weight, geometry)


def grad_weight(
    grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, per_sample: bool = False
) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, C_out, P, Q) and x → (C_out, C_in/groups, K_h, K_w).

    With ``per_sample`` the sum over n is kept out: (N, C_out, C_in/groups, K_h, K_w).
    """
    taken = cpu.takes(input, geometry, input.size(1), grad_output.size(1))
    if per_sample or _densely() or not taken or grad_output.dtype != input.dtype:
        return direct.grad_weight(grad_output, input, geometry, per_sample)
    return way_to(cpu.grad_weight, grad_output, input)(grad_output, input, geometry)


def _densely() -> bool:
    """Whether the gradients are to be differentiated again, by which only the formulas can be."""
    return torch.is_grad_enabled() or in_forward_mode()


def serves(input: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> bool:
    """Whether the kernels take such a call of ``conv2d``, whose arguments these are."""
    input, weight, bias = cast_for_autocast(input, weight, bias)
    geometry = conv2d_geometry(input, weight, bias, *window)
    batch = input if input.dim() == 4 else input.unsqueeze(0)
    return cpu.takes(batch, geometry, batch.size(1), len(weight))


register_conv2d(
    "implicit_gemm",
    forward,
    grad_input,
    grad_weight,
    summary="products of matrices that are not laid out; for small images of many channels",
    serves=serves,
)
