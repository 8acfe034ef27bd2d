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

from cnnexp.kernels.cpu import narrow as cpu
from cnnexp.ops.conv2d.by_kernels import register_kernels

register_kernels(
    "narrow",
    cpu,
    summary="few channels, the lanes are pixels; other convolutions as by direct",
)
