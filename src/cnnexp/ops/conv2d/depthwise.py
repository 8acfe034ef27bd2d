"""Convolution of each channel by a kernel of its own (groups = C_in = C_out), by the CPU's kernels.

    y[n, c, p, q] = b[c] + Σ_{u,v} x[n, c, p·s_h + u − p_h, q·s_w + v − p_w] · w[c, 0, u, v]

is the convolution of ``direct`` without the sum over channels, and so are its gradients:

    ∂L/∂x[n, c, m·s_h + r − p_h, …] = Σ_{j, r + s_h·j < K_h} g[n, c, m − j, …] · w[c, 0, r + s_h·j, …]
    ∂L/∂w[c, 0, u, v] = Σ_{n,p,q} g[n, c, p, q] · x[n, c, p·s_h + u − p_h, q·s_w + v − p_w]

(columns as rows). Without that sum there is no matrix product: each number of an image takes part in K_h·K_w
multiplications only, and what counts is how often it is moved. The kernels read it once into a vector of
channels, and keep all taps of these in registers (``kernels.cpu.depthwise_kernels``). Half precision is
summed in float32 and rounded once.

What they have not got is computed as by ``direct``: other convolutions, dilation, other devices, float16,
forward mode; and so is the gradient of a gradient.

Source: Sifre, "Rigid-Motion Scattering for Image Classification" (2014), section 6.2, for the layer;
docs/derivation.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.kernels.cpu import depthwise as cpu
from cnnexp.ops.autocast import cast_for_autocast
from cnnexp.ops.conv2d import direct
from cnnexp.ops.conv2d.function import register_conv2d
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.kernel_calls import way_to


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y from x: (N, C, H, W), w: (C, 1, K_h, K_w), b: (C,) → (N, C, P, Q)."""
    if in_forward_mode() or not cpu.takes(input, geometry, input.size(1), len(weight)):
        return direct.forward(input, weight, bias, geometry)
    tensors = (input, weight) if bias is None else (input, weight, bias)
    return way_to(cpu.forward, *tensors)(input, weight, bias, geometry)


def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C, P, Q) and w → (N, C, H, W)."""
    taken = cpu.takes(grad_output, geometry, weight.size(1) * geometry.groups, len(weight))
    if _densely() or not taken or grad_output.dtype != weight.dtype:
        return direct.grad_input(grad_output, weight, geometry)
    return way_to(cpu.grad_input, grad_output, weight)(grad_output, weight, geometry)


def grad_weight(
    grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, per_sample: bool = False
) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, C, P, Q) and x → (C, 1, K_h, K_w).

    With ``per_sample`` the sum over n is kept out: (N, C, 1, K_h, K_w).
    """
    taken = cpu.takes(input, geometry, input.size(1), grad_output.size(1))
    if _densely() or not taken or grad_output.dtype != input.dtype:
        return direct.grad_weight(grad_output, input, geometry, per_sample)
    call = way_to(cpu.grad_weight, grad_output, input)
    return call(grad_output, input, geometry, per_sample)


def _densely() -> bool:
    """Whether the gradients are to be differentiated again, by which only the formulas can be."""
    return torch.is_grad_enabled() or in_forward_mode()


def serves(input: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> bool:
    """Whether the kernels take such a call of ``conv2d``, whose arguments these are."""
    input, weight, bias = cast_for_autocast(input, weight, bias)
    geometry = conv2d_geometry(input, weight, bias, *window)
    return cpu.takes(input, geometry, input.size(-3), len(weight))


register_conv2d(
    "depthwise",
    forward,
    grad_input,
    grad_weight,
    summary="one kernel a channel, its taps in registers; other convolutions as by direct",
    serves=serves,
)
