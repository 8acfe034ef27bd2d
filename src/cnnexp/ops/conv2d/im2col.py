"""Convolution as one matrix product: the windows are laid out as the rows of a matrix.

With l = (n, p, q) and k = (u, v, c), im2col writes every window of the batch into one row of

    X[l, k] = x[n, c, p·s_h + u·d_h − p_h, q·s_w + v·d_w − p_w]          (0 off the image)

so that  Y = X · Wᵀ + b  with W[o, k] = w[o, c, u, v] as a (C_out, K_h·K_w·C_in) matrix. The gradients
are those of a matrix product,

    ∂L/∂X = ∂L/∂Y · W        ∂L/∂W = ∂L/∂Yᵀ · X

and ∂L/∂x adds the rows back to where they were read (col2im). X holds K_h·K_w copies of the image:
it is computed again in the backward instead of being kept. The channel runs fastest, so that each
piece of a row is one contiguous read of an image in channels_last memory; results have that layout.

Source: Chellapilla, Puri & Simard, "High Performance Convolutional Neural Networks for Document
Processing" (2006), section 3, transposed; docs/derivation.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import cut
from cnnexp.kernels.cpu.pages import empty_in_large_pages
from cnnexp.ops.conv2d.function import register_conv2d
from cnnexp.ops.layout import is_channels_last

_CACHED = 1 << 18  # numbers of the matrix of some samples


def im2col(input: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """(N, C_in, H, W) → X, group by group: (G, N·P·Q, K_h·K_w·C_in/G)."""
    padded = geometry.pad(input).permute(0, 2, 3, 1)
    pieces = list(geometry.pieces(padded, 1))
    positions = input.size(0) * math.prod(geometry.output_size)
    channels = input.size(1) // geometry.groups
    matrix = torch.stack(pieces, dim=3)  # (N, P, Q, K_h·K_w, C_in)
    matrix = matrix.reshape(positions, len(pieces), geometry.groups, channels).permute(2, 0, 1, 3)
    return matrix.reshape(geometry.groups, positions, len(pieces) * channels)


def col2im(grad_matrix: Tensor, n: int, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂X as (G, N·P·Q, K_h·K_w·C_in/G) → ∂L/∂x: (N, C_in, H, W)."""
    groups, positions, size = grad_matrix.shape
    offsets = math.prod(geometry.kernel_size)
    channels = size // offsets
    pieces = grad_matrix.reshape(groups, positions, offsets, channels).permute(2, 1, 0, 3)
    pieces = pieces.reshape(offsets, n, *geometry.output_size, groups * channels)
    padded = grad_matrix.new_zeros(n, *geometry.padded_size(), groups * channels)
    for piece, (_, _, rows, columns) in zip(pieces.unbind(0), geometry.offsets(), strict=True):
        cut(padded, rows, columns, 1).add_(piece)
    return geometry.crop(padded.permute(0, 3, 1, 2))


def _kernels(weight: Tensor, groups: int) -> Tensor:
    """W → W, group by group: (G, C_out/G, K_h·K_w·C_in/G)."""
    c_out, c_in, k_h, k_w = weight.shape
    return weight.permute(0, 2, 3, 1).reshape(groups, c_out // groups, k_h * k_w * c_in)


def _by_group(grad_output: Tensor, groups: int) -> Tensor:
    """(N, C_out, P, Q) → (G, N·P·Q, C_out/G)."""
    n, c_out, rows, columns = grad_output.shape
    matrix = grad_output.permute(0, 2, 3, 1).reshape(n * rows * columns, groups, c_out // groups)
    return matrix.transpose(0, 1)


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y from x: (N, C_in, H, W), w: (C_out, C_in/groups, K_h, K_w), b: (C_out,) → (N, C_out, P, Q)."""
    if torch.compiler.is_compiling():
        return _product_for_any_size(input, weight, bias, geometry)
    product = im2col(input, geometry) @ _kernels(weight, geometry.groups).transpose(1, 2)
    output = product.transpose(0, 1).reshape(input.size(0), *geometry.output_size, weight.size(0))
    return (output if bias is None else output + bias).permute(0, 3, 1, 2)


def _product_for_any_size(
    input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry
) -> Tensor:
    """Y as :func:`forward` gives it, with N, P and Q left as they are, so that a graph can leave them open.

    As a 1×1 convolution: a matrix over N·P·Q rows would have to be taken apart into them again.
    """
    pieces = torch.stack(list(geometry.pieces(geometry.pad(input))), dim=2)  # (N, C_in, K, P, Q)
    kernels = weight.flatten(1)[:, :, None, None]  # (C_out, C_in/groups·K, 1, 1)
    return F.conv2d(pieces.flatten(1, 2), kernels, bias, groups=geometry.groups)


def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C_out, P, Q) and w → (N, C_in, H, W)."""
    grad_matrix = _by_group(grad_output, geometry.groups) @ _kernels(weight, geometry.groups)
    return col2im(grad_matrix, grad_output.size(0), geometry)


def grad_weight(
    grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, per_sample: bool = False
) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, C_out, P, Q) and x → (C_out, C_in/groups, K_h, K_w).

    With ``per_sample`` the sum over n is kept out: (N, C_out, C_in/groups, K_h, K_w).
    """
    if per_sample:
        return _grad_weights(grad_output, input, geometry)
    grads, matrix = _by_group(grad_output, geometry.groups), im2col(input, geometry)
    groups, c_out, c_in = geometry.groups, grad_output.size(1), input.size(1)
    grad = grads.transpose(-1, -2) @ matrix  # (G, C_out/G, K_h·K_w·C_in/G)
    grad = grad.reshape(c_out, *geometry.kernel_size, c_in // groups).permute(0, 3, 1, 2)
    # in the layout of the weights, as far as the image tells: autograd would copy it into that
    return grad if is_channels_last(input) else grad.contiguous()


def _grad_weights(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂w of each sample, as many at a time as have a matrix that stays in the cache."""
    (n, c_out), groups = grad_output.shape[:2], geometry.groups
    c_in, positions = input.size(1) // groups, math.prod(geometry.output_size)
    size = math.prod(geometry.kernel_size) * c_in
    made = empty_in_large_pages((n, groups, c_out // groups, size), grad_output)
    together = max(1, _CACHED // max(1, groups * positions * size))
    for begin in range(0, n, together):
        part = slice(begin, min(begin + together, n))
        each = (part.stop - begin, positions)
        grads = _by_group(grad_output[part], groups).unflatten(1, each)
        matrix = im2col(input[part], geometry).unflatten(1, each)
        # (G, N, C_out/G, K_h·K_w·C_in/G)
        torch.matmul(grads.transpose(-1, -2), matrix, out=made[part].transpose(0, 1))
    by_pixel = made.unflatten(-1, (*geometry.kernel_size, c_in))
    return by_pixel.flatten(1, 2).permute(0, 1, 4, 2, 3)


register_conv2d(
    "im2col",
    forward,
    grad_input,
    grad_weight,
    summary="windows as rows of a matrix, then one matrix product",
)
