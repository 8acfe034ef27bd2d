"""Convolution whose gradients are convolutions again.

    y[n, o, p, q] = b[o] + Σ_{c,u,v} x[n, c, p·s_h + u·d_h − p_h, q·s_w + v·d_w − p_w] · w[o, c, u, v]

∂L/∂x[n, c, i, j] collects grad_output from every (p, q, u, v) with p·s_h + u·d_h − p_h = i and
q·s_w + v·d_w − p_w = j. For stride 1, p = i + p_h − u·d_h, so with u' = K_h − 1 − u it reads

    ∂L/∂x[n, c, i, j] = Σ_{o,u',v'} g[n, o, i + u'·d_h − (d_h(K_h−1) − p_h), …] · w[o, c, K_h−1−u', K_w−1−v']

a convolution of g = grad_output with the kernel flipped in both axes and its channels swapped,
padded by d(K − 1) − p. For stride s, g is first spread out, s − 1 zeros between its elements
(torch calls the two steps together a transposed convolution; it skips the zeros).

    ∂L/∂w[o, c, u, v] = Σ_{n,p,q} g[n, o, p, q] · x[n, c, p·s_h + u·d_h − p_h, q·s_w + v·d_w − p_w]

is a correlation of input and grad_output in which the batch plays the channels, grad_output the
kernel, and stride and dilation change places. Every product runs on torch's own convolution
primitive; which products, is derived here (docs/derivation.md).

Source: Goodfellow, Bengio & Courville, "Deep Learning" (2016), section 9.5; Dumoulin & Visin, "A
guide to convolution arithmetic for deep learning" (2016), chapter 4; Rochette, Manoel & Tramel,
"Efficient Per-Example Gradient Computations in Convolutional Neural Networks" (2019), for
``per_sample``.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.ops.conv2d.function import register_conv2d

_TERMS = 3000
_MOST_PARTS = 32


def forward(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry) -> Tensor:
    """Y from x: (N, C_in, H, W), w: (C_out, C_in/groups, K_h, K_w), b: (C_out,) → (N, C_out, P, Q)."""
    g = geometry
    return F.conv2d(input, weight, bias, g.stride, g.padding, g.dilation, g.groups)


def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C_out, P, Q) and w → (N, C_in, H, W)."""
    g = geometry
    reach = tuple(e - 1 - p for e, p in zip(g.extent, g.padding, strict=True))
    if g.stride == (1, 1) and min(reach) >= 0:
        flipped = _swap_channels(weight.flip(2, 3), g.groups)
        return F.conv2d(grad_output, flipped, None, 1, reach, g.dilation, g.groups)
    # The far rows and columns that no window reached: zeros to append so that the size is H × W.
    unread = [
        n + 2 * p - ((m - 1) * s + e)
        for n, p, m, s, e in zip(
            g.input_size, g.padding, g.output_size, g.stride, g.extent, strict=True
        )
    ]
    return F.conv_transpose2d(
        grad_output, weight, None, g.stride, g.padding, unread, g.groups, g.dilation
    )


def grad_weight(
    grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, per_sample: bool = False
) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, C_out, P, Q) and x → (C_out, C_in/groups, K_h, K_w).

    With ``per_sample`` the sum over n is kept out: (N, C_out, C_in/groups, K_h, K_w).
    """
    g, (n, c_out) = geometry, grad_output.shape[:2]
    c_in = input.size(1)
    if n == 0:
        lead = (0,) if per_sample else ()
        return grad_output.new_zeros(*lead, c_out, c_in // g.groups, *g.kernel_size)
    parts = _parts(grad_output)
    if per_sample:  # every (sample, group) is a group of one channel
        image = input.reshape(n * g.groups, c_in // g.groups, *g.input_size).transpose(0, 1)
        kernel = grad_output.reshape(n * c_out, 1, *g.output_size)
        groups = n * g.groups
    else:
        image = input.reshape(n, g.groups, c_in // g.groups, *g.input_size).permute(2, 1, 0, 3, 4)
        image = image.reshape(c_in // g.groups, g.groups * n, *g.input_size)
        kernel, groups = _in_parts(grad_output, g.groups, parts), g.groups * parts
    # (C_in/G, C_out | N·C_out | G·parts·C_out/G, ≥ K_h, ≥ K_w): positions past the kernel come from a
    # stride that does not divide, and are dropped.
    grad = F.conv2d(image, kernel, None, g.dilation, g.padding, g.stride, groups)
    grad = grad.narrow(2, 0, g.kernel_size[0]).narrow(3, 0, g.kernel_size[1]).transpose(0, 1)
    if per_sample:
        return grad.reshape(n, c_out, *grad.shape[1:])
    if parts == 1:
        return grad
    return grad.unflatten(0, (g.groups, parts, -1)).sum(1).flatten(0, 1)


def _parts(grad_output: Tensor) -> int:
    """Into how many sums, which are then added up, the batch is cut: on a GPU those of some 3,000 terms.

    cuDNN's sum of 100,000 terms has 5 × the rounding error of 32 such sums and takes 11 × the time on an
    H100, since nothing else of it is parallel (batch 128, 1 → 32 channels, 3×3, 28×28, float32).
    """
    if not grad_output.is_cuda:
        return 1
    n, terms = len(grad_output), grad_output.numel() // grad_output.size(1)
    most = min(_MOST_PARTS, max(1, terms // _TERMS))
    return max(parts for parts in range(1, most + 1) if n % parts == 0)


def _in_parts(grad_output: Tensor, groups: int, parts: int) -> Tensor:
    """∂L/∂y as the kernel: (N, C_out, P, Q) → (G·parts·C_out/G, N/parts, P, Q)."""
    if parts == 1:
        return grad_output.transpose(0, 1)
    cut = grad_output.unflatten(1, (groups, -1)).unflatten(0, (parts, -1))
    return cut.permute(2, 0, 3, 1, 4, 5).flatten(0, 2)


def _swap_channels(weight: Tensor, groups: int) -> Tensor:
    """(C_out, C_in/groups, …) → (C_in, C_out/groups, …)."""
    c_out, channels, *kernel = weight.shape
    grouped = weight.reshape(groups, c_out // groups, channels, *kernel).transpose(1, 2)
    return grouped.reshape(groups * channels, c_out // groups, *kernel)


register_conv2d(
    "direct",
    forward,
    grad_input,
    grad_weight,
    summary="gradients as convolutions: flipped kernel for the input, correlation for the weight",
)
