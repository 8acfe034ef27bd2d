"""Convolution of few channels, by the CPU's kernels; the formulas are those of ``direct``.

A first layer, or all layers of a small network, have fewer channels than a library's kernels have lanes for.
These take the pixels for the lanes (``kernels.cpu.narrow_kernels``). bfloat16 is summed in float32 and
rounded once; a processor that multiplies pairs of them does so (``kernels.cpu.narrow_pair_kernels``).

What they have not got is computed as by ``direct``: more channels than ``kernels.cpu.narrow.FEW``, strides,
groups, more padding than the kernel reaches, other devices, float16, forward mode; and so are gradients of
single samples and the gradient of a gradient.

Source: docs/derivation.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.kernels.cpu import narrow as cpu
from cnnexp.ops.autocast import cast_for_autocast
from cnnexp.ops.conv2d import direct
from cnnexp.ops.conv2d.function import register_conv2d
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.kernel_calls import way_to


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y from x: (N, C_in, H, W), w: (C_out, C_in, K_h, K_w), b: (C_out,) → (N, C_out, P, Q)."""
    if in_forward_mode() or not cpu.takes(input, geometry, input.size(1), len(weight)):
        return direct.forward(input, weight, bias, geometry)
    tensors = (input, weight) if bias is None else (input, weight, bias)
    return way_to(cpu.forward, *tensors)(input, weight, bias, geometry)


def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C_out, P, Q) and w → (N, C_in, H, W)."""
    taken = cpu.takes(grad_output, geometry, weight.size(1), len(weight))
    if _densely() or not taken or grad_output.dtype != weight.dtype:
        return direct.grad_input(grad_output, weight, geometry)
    return way_to(cpu.grad_input, grad_output, weight)(grad_output, weight, geometry)


def grad_weight(
    grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, per_sample: bool = False
) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, C_out, P, Q) and x → (C_out, C_in, K_h, K_w).

    With ``per_sample`` the sum over n is kept out: (N, C_out, C_in, K_h, K_w).
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
    return cpu.takes(input, geometry, input.size(-3), len(weight))


register_conv2d(
    "narrow",
    forward,
    grad_input,
    grad_weight,
    summary="few channels, the lanes are pixels; other convolutions as by direct",
    serves=serves,
)
