"""Winograd's convolution for the fused block: 3×3 kernels, then a 2×2 max-pool.

    y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A        d (4, 4) input, w (3, 3), y (2, 2): a tile

          ⎡ 1  0  0 ⎤          ⎡ 1  0 −1  0 ⎤
      G = ⎢ ½  ½  ½ ⎥     Bᵀ = ⎢ 0  1  1  0 ⎥     Aᵀ = ⎡ 1  1  1  0 ⎤
          ⎢ ½ −½  ½ ⎥          ⎢ 0 −1  1  0 ⎥          ⎣ 0  1 −1 −1 ⎦
          ⎣ 0  0  1 ⎦          ⎣ 0  1  0 −1 ⎦

16 products a tile and channel instead of 36. Sums over input channels run between ⊙ and Aᵀ, where
they are 16 matrix products. The four outputs of a tile are one window of the pool, so bias, ReLU and
maximum follow in registers, and no output of the convolution is ever written.

The sums of the transforms mix the numbers of a tile: errors are relative to the largest of these, not
of each receptive field (about two to three times those of a direct sum), and one infinity would spoil
its tile. What is not finite is therefore computed again by the direct sum. An exact 0 before the ReLU
may become a rounding error of either sign, as in cuDNN, which takes this way for such layers too.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (CVPR 2016), section 4.1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import conv_relu_pool as cpu
from cnnexp.kernels.operators import operator

_FEWEST_CHANNELS = 16  # in and out: below, vectors are not filled
_TILES_TOGETHER = 64  # that are multiplied at once; a constant, whatever the number of threads
_LANES = 16  # of the widest vectors


def has_tiles(conv: Conv2dGeometry, pool: WindowGeometry, c_in: int, c_out: int) -> bool:
    """Whether the windows of max-pooling are the tiles of this convolution, and vectors are filled."""
    whole = not pool.ceil_mode or all(
        2 * p <= z for p, z in zip(pool.output_size, pool.input_size, strict=True)
    )
    return (
        whole
        and min(c_in, c_out) >= _FEWEST_CHANNELS
        and (conv.kernel_size, conv.stride, conv.dilation) == ((3, 3), (1, 1), (1, 1))
        and (pool.kernel_size, pool.stride, pool.padding) == ((2, 2), (2, 2), (0, 0))
        and pool.dilation == (1, 1)
    )


@operator("conv_relu_max_pool_forward_winograd", cpu.pooled_and_code)
def forward_winograd(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
) -> tuple[Tensor, Tensor]:
    """X (N, C_in, H, W) → max-pooled ReLU of its convolution (N, C_out, P, Q) and its code, uint8."""
    from cnnexp.kernels.cpu import winograd_kernels

    if input.dtype == torch.bfloat16:
        raise RuntimeError(
            "conv_relu_max_pool_forward_winograd takes float32 and float64: tiles of bfloat16 would have to "
            "be rounded"
        )
    output, code = cpu.pooled_and_code(input, weight, bias, conv, pool)
    (n, c_in), (rows, columns) = input.shape[:2], pool.output_size
    together = -(-_TILES_TOGETHER // (rows * columns))
    pooled = cpu.array_of(output)
    checks = np.zeros((-(-n // together), _LANES), pooled.dtype)
    kernels = np.empty((16, c_in * weight.size(0) + winograd_kernels.APART), pooled.dtype)
    winograd_kernels.transform_kernels(cpu.array_of(weight), kernels)
    winograd_kernels.max_forward(
        cpu.array_of(input),
        kernels,
        cpu.bias_of(bias, output),
        np.array(conv.padding),
        together,
        pooled,
        cpu.array_of(code),
        checks,
    )
    if checks.any():  # NaN: something was not finite
        return cpu.forward(input, weight, bias, conv, pool, None)
    return output, code
