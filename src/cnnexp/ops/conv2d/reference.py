"""Convolution by definition: one window at a time, the oracle for all other algorithms.

    y[n, o, p, q] = b[o] + Σ_{c,u,v} x[n, c, p·s_h + u·d_h − p_h, q·s_w + v·d_w − p_w] · w[o, c, u, v]

with x = 0 off the image, c over the C_in/groups channels of the group of o. (It is a
cross-correlation; deep learning calls it convolution.) Each y[n, o, p, q] is the inner product of
window (p, q) with kernel o. The loss therefore depends on x through every window that an element
lies in, and on w through every position of the window, which the chain rule adds up:

    ∂L/∂x[window (p, q)] += Σ_o ∂L/∂y[n, o, p, q] · w[o]
    ∂L/∂w[o] = Σ_{n,p,q} ∂L/∂y[n, o, p, q] · window (p, q)

Source: docs/derivation.md; Dumoulin & Visin, "A guide to convolution arithmetic for deep learning"
(2016), for the sizes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import cut
from cnnexp.ops.conv2d.function import register_conv2d


def _by_group(channels: Tensor, groups: int) -> Tensor:
    """(N, C, …) → (G, N, C/G, …): the channels of each group by themselves."""
    n, c, *rest = channels.shape
    return channels.reshape(n, groups, c // groups, *rest).transpose(0, 1)


def _kernels(weight: Tensor, groups: int) -> Tensor:
    """W → (G, C_out/G, C_in/G·K_h·K_w): each kernel as one row."""
    return weight.reshape(groups, weight.size(0) // groups, math.prod(weight.shape[1:]))


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y from x: (N, C_in, H, W), w: (C_out, C_in/groups, K_h, K_w), b: (C_out,) → (N, C_out, P, Q)."""
    padded = _by_group(geometry.pad(input), geometry.groups)
    kernels = _kernels(weight, geometry.groups)
    groups, c_out, size = kernels.shape
    values = []
    for _, _, rows, columns in geometry.windows():
        window = cut(padded, rows, columns).reshape(groups, input.size(0), size)
        values.append(window @ kernels.transpose(1, 2))  # (G, N, C_out/G)
    output = torch.stack(values, dim=-1).transpose(0, 1)  # (N, G, C_out/G, P·Q)
    output = output.reshape(input.size(0), groups * c_out, *geometry.output_size)
    return output if bias is None else output + bias[:, None, None]


def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C_out, P, Q) and w → (N, C_in, H, W)."""
    grads = _by_group(grad_output, geometry.groups)  # (G, N, C_out/G, P, Q)
    kernels = _kernels(weight, geometry.groups)
    groups, n, c_in = grads.size(0), grads.size(1), weight.size(1)
    padded = grad_output.new_zeros(groups, n, c_in, *geometry.padded_size())
    for p, q, rows, columns in geometry.windows():
        share = grads[..., p, q] @ kernels  # (G, N, C_in/G·K_h·K_w)
        cut(padded, rows, columns).add_(share.reshape(groups, n, c_in, *geometry.kernel_size))
    padded = padded.transpose(0, 1).reshape(n, groups * c_in, *geometry.padded_size())
    return geometry.crop(padded)


def grad_weight(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, C_out, P, Q) and x → (C_out, C_in/groups, K_h, K_w)."""
    padded = _by_group(geometry.pad(input), geometry.groups)
    grads = _by_group(grad_output, geometry.groups)
    groups, n, c_in = padded.shape[:3]
    size = c_in * math.prod(geometry.kernel_size)
    total = grad_output.new_zeros(groups, grads.size(2), size)
    for p, q, rows, columns in geometry.windows():
        window, grad = cut(padded, rows, columns).reshape(groups, n, size), grads[..., p, q]
        total = total + grad.transpose(1, 2) @ window  # the product sums over n
    return total.reshape(grad_output.size(1), c_in, *geometry.kernel_size)


register_conv2d(
    "reference",
    forward,
    grad_input,
    grad_weight,
    summary="by definition, one window at a time; slow, the oracle",
)
