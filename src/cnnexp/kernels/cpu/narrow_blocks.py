"""The CPU kernels of blocks of few channels as torch operators: convolution, activation, pooling.

As in ``narrow``, whose kernels these are, with something behind the convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu.behind import RELU_MAX, TANH
from cnnexp.kernels.cpu.image_layout import is_channels_last, new_image
from cnnexp.kernels.cpu.narrow import (
    Behind,
    image_of,
    new_kernel,
    run_forward,
    run_grad_input,
    run_grad_weight,
)
from cnnexp.kernels.operators import operator

__all__ = [
    "max_forward",
    "max_grad_input",
    "max_grad_weight",
    "tanh_forward",
    "tanh_grad_input",
    "tanh_grad_weight",
]


def _output_and_kept(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    divisor: Tensor | None,
) -> tuple[Tensor, Tensor]:
    last, c_out = is_channels_last(input) or is_channels_last(weight), weight.size(0)
    kept = new_image(input, c_out, conv.output_size, last=False)
    return new_image(input, c_out, pool.output_size, last), kept


@operator("conv_tanh_pool_forward", _output_and_kept)
def tanh_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    divisor: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """X (N, C_in, H, W) → the means over windows of tanh(z), (N, C_out, R, S), and tanh(z) itself.

    Without ``divisor`` (R, S) there is no pooling, and ``pool`` has windows of one pixel.
    """
    output, kept = _output_and_kept(input, weight, bias, conv, pool, divisor)
    if kept.numel():
        run_forward(input, weight, bias, conv, output, kept, Behind(TANH, pool, divisor))
    return output, kept


def _kernel_and_bias(
    grad_output: Tensor,
    kept: Tensor,
    input: Tensor,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    divisor: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return new_kernel(grad_output, input, conv), input.new_empty(grad_output.size(1))


@operator("conv_tanh_pool_grad_weight", _kernel_and_bias)
def tanh_grad_weight(
    grad_output: Tensor,
    kept: Tensor,
    input: Tensor,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    divisor: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """∂L/∂w (C_out, C_in, K_h, K_w) and ∂L/∂b (C_out,) from ∂L/∂(pooled), tanh(z) and x."""
    behind = Behind(TANH, pool, divisor)
    return run_grad_weight(grad_output, input, conv, kept.contiguous(), behind)


def _image_of_block(
    grad_output: Tensor,
    kept: Tensor,
    weight: Tensor,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    divisor: Tensor | None,
) -> Tensor:
    return image_of(grad_output, weight, conv)


@operator("conv_tanh_pool_grad_input", _image_of_block)
def tanh_grad_input(
    grad_output: Tensor,
    kept: Tensor,
    weight: Tensor,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    divisor: Tensor | None,
) -> Tensor:
    """∂L/∂x (N, C_in, H, W) from ∂L/∂(pooled), tanh(z) and w."""
    return run_grad_input(grad_output, weight, conv, kept.contiguous(), Behind(TANH, pool, divisor))


def _maxima_and_code(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
) -> tuple[Tensor, Tensor]:
    last, c_out = is_channels_last(input) or is_channels_last(weight), weight.size(0)
    code = input.new_empty(input.size(0), c_out, *pool.output_size, dtype=torch.uint8)
    return new_image(input, c_out, pool.output_size, last), code


@operator("narrow_relu_max_forward", _maxima_and_code)
def max_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
) -> tuple[Tensor, Tensor]:
    """X (N, C_in, H, W) → max-pooled relu(z), (N, C_out, R, S), and who won each window, uint8."""
    output, code = _maxima_and_code(input, weight, bias, conv, pool)
    if output.numel():
        run_forward(input, weight, bias, conv, output, code, Behind(RELU_MAX, pool))
    return output, code


def _weight_and_bias(
    grad_output: Tensor, code: Tensor, input: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> tuple[Tensor, Tensor]:
    return new_kernel(grad_output, input, conv), input.new_empty(grad_output.size(1))


@operator("narrow_relu_max_grad_weight", _weight_and_bias)
def max_grad_weight(
    grad_output: Tensor, code: Tensor, input: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> tuple[Tensor, Tensor]:
    """∂L/∂w (C_out, C_in, K_h, K_w) and ∂L/∂b (C_out,) from ∂L/∂(pooled), its code and x."""
    behind = Behind(RELU_MAX, pool)
    return run_grad_weight(grad_output, input, conv, code.contiguous(), behind)


def _image_below(
    grad_output: Tensor, code: Tensor, weight: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> Tensor:
    return image_of(grad_output, weight, conv)


@operator("narrow_relu_max_grad_input", _image_below)
def max_grad_input(
    grad_output: Tensor, code: Tensor, weight: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> Tensor:
    """∂L/∂x (N, C_in, H, W) from ∂L/∂(pooled), its code and w."""
    return run_grad_input(grad_output, weight, conv, code.contiguous(), Behind(RELU_MAX, pool))
