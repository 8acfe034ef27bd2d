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

Within autocast to bfloat16 the weights stay float32: they are rounded where they are laid out for the
products, and ∂L/∂w, a float32 as they are, is never rounded. That saves a copy of all weights, which else is
made in each step and kept for the backward, and two copies of their gradients. In return weights that are
changed in place between forward and backward are an error, as they are in float32. Weights that are computed
anew in each step (a weight norm's) are cast.

What the kernels have not got is computed as by ``direct``: groups of fewer than 16 channels, in bfloat16 of
an odd number; fewer than eight images (of 1×1 kernels, pixels); large images; other devices;
float64, float16; forward mode; and so are gradients of single samples and the gradient of a gradient.

Source: Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning" (2014), section 3, for the name and
the lists in place of the matrix; docs/derivation.md.
"""

from __future__ import annotations

from cnnexp.kernels.cpu import implicit as cpu
from cnnexp.ops.conv2d.by_kernels import register_kernels

register_kernels(
    "implicit_gemm",
    cpu,
    wide=True,
    summary="products of matrices that are not laid out; for small images of many channels",
)
