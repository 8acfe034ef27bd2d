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

from cnnexp.kernels.cpu import depthwise as cpu
from cnnexp.ops.conv2d.by_kernels import register_kernels

register_kernels(
    "depthwise",
    cpu,
    summary="one kernel a channel, its taps in registers; other convolutions as by direct",
    each_sample=True,
)
