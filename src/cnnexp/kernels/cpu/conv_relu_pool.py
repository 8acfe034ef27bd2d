"""The CPU kernels of the fused block as torch operators: who is let in, and what each is handed.

Tensors are images (N, C, H, W) in channels_last memory. numba compiles at the first call (some seconds,
once a machine) and is imported only then.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.described import Described
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import bfloat16
from cnnexp.kernels.cpu.tables import pool_windows, receptive_fields
from cnnexp.kernels.limits import pool_refusal
from cnnexp.kernels.operators import gathered_image, new_image, operator, spread_image

__all__ = [
    "FEW_CHANNELS",
    "admit",
    "array_of",
    "bias_of",
    "dtypes",
    "dtypes_in_words",
    "forward",
    "forward_few_channels",
    "forward_pairs",
    "pool_gather",
    "pool_spread",
    "pooled_and_code",
    "refusal",
    "winners_grad_input",
    "winners_grad_weight",
]

# How finely sums over the batch are split at most: a constant, so that the number of threads
# changes no rounding.
_PARTS = 16
_LONG, _MOST_IMAGES = 64, 32  # winners and dead ones in a list, of so many images, that a sum pays
_POSITIONS = 32  # whose gradients of the image a task sums, so that it pays to read the weights
_CACHED_BYTES = 1 << 21  # of a convolution's output that is pooled while the caches hold it
FEW_CHANNELS = 16  # of the input; below, vectors run along the output channels


def dtypes() -> tuple[torch.dtype, ...]:
    """What these kernels compute in, on this processor."""
    wide = (torch.float32, torch.float64)
    return (*wide, torch.bfloat16) if bfloat16.AVAILABLE else wide


def dtypes_in_words() -> str:
    """The names of :func:`dtypes`: ``"float32 and float64"``, or one more."""
    *names, last = (str(dtype).removeprefix("torch.") for dtype in dtypes())
    return f"{', '.join(names)} and {last}"


def refusal(
    input: Tensor | Described, conv: Conv2dGeometry, pool: WindowGeometry, average: bool
) -> str | None:
    """Why these kernels do not take such a block, in words; None if they do."""
    if input.device.type != "cpu" or input.dtype not in dtypes():
        return f"{dtypes_in_words()} on cpu, not {input.dtype} on {input.device.type}"
    if conv.groups != 1:
        return f"groups=1, not {conv.groups}"
    return pool_refusal(pool, average)


def admit(image: Tensor, pool: WindowGeometry, conv: Conv2dGeometry, average: bool) -> None:
    """Raise ``RuntimeError`` unless these kernels take such a block."""
    if reason := refusal(image, conv, pool, average):
        raise RuntimeError(
            f"the CPU kernels of conv_relu_pool take {reason}; use algorithm='direct'"
        )


def widened(image: Tensor) -> Tensor:
    """``image``, if of bfloat16 as float32, in the same layout."""
    return image.float() if image.dtype == torch.bfloat16 else image


def array_of(image: Tensor) -> np.ndarray:
    """(N, C, H, W) → the same memory as (N, H, W, C), copied only if it is in another layout.

    Of bfloat16, which numpy does not have, the bit patterns.
    """
    if image.dtype == torch.bfloat16:
        return bfloat16.bits_of(image)
    return image.detach().permute(0, 2, 3, 1).contiguous().numpy()


def bias_of(bias: Tensor | None, image: Tensor) -> np.ndarray:
    """``bias``, or zeros for the channels of ``image``; of bfloat16 as float32."""
    made = image.new_zeros(image.size(1)) if bias is None else bias.detach().contiguous()
    return widened(made).numpy()


def pooled_and_code(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    divisor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Empty results of a forward: (N, C_out, P, Q) in the dtype of ``input``, and in uint8."""
    admit(input, pool, conv, average=divisor is not None)
    c_out, size = weight.size(0), pool.output_size
    return new_image(input, c_out, size), new_image(input, c_out, size, torch.uint8)


@operator("conv_relu_pool_forward", pooled_and_code)
def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    divisor: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """X (N, C_in, H, W) → pooled ReLU of its convolution (N, C_out, P, Q) and its code, uint8.

    ``divisor`` (P, Q) for average-pooling, None for max-pooling. Goes through the batch in parts
    whose convolution stays in the cache until it is pooled, and computes no row or column of it
    that no window reads.
    """
    from cnnexp.kernels.cpu import pooling

    output, code = pooled_and_code(input, weight, bias, conv, pool, divisor)
    n, c_out = input.size(0), weight.size(0)
    input, padding, windows = _without_unread(input, conv, pool)
    rows, columns = windows.input_size
    together = max(1, _CACHED_BYTES // (c_out * rows * columns * input.element_size()))
    half = input.dtype == torch.bfloat16
    window = conv.stride, padding, conv.dilation
    biases, table = bias_of(None if half else bias, output), pool_windows(windows)
    for begin in range(0, n, together):
        part = slice(begin, begin + together)
        # what is of half precision is rounded here, so its bias comes before
        z = F.conv2d(input[part], weight, bias if half else None, *window)
        if half and divisor is None:
            bfloat16.max_pooled(z, windows, output[part], code[part])
            continue
        pooled, codes = widened(output[part]), array_of(code[part])
        arguments = array_of(widened(z)), biases, table
        if divisor is None:
            pooling.max_forward(*arguments, array_of(pooled), codes)
        else:
            pooling.avg_forward(*arguments, divisor.numpy(), array_of(pooled), codes)
        if half:
            output[part] = pooled
    return output, code


def _without_unread(
    input: Tensor, geometry: Conv2dGeometry, pool: WindowGeometry
) -> tuple[Tensor, tuple[int, int], WindowGeometry]:
    """Image, padding and windows without the last rows and columns of z that no window reads."""
    needed = [
        min(size, (count - 1) * stride - padding + extent)
        for size, count, stride, padding, extent in zip(
            pool.input_size, pool.output_size, pool.stride, pool.padding, pool.extent, strict=True
        )
    ]
    reached = [
        (count - 1) * stride + extent - padding
        for count, stride, extent, padding in zip(
            needed, geometry.stride, geometry.extent, geometry.padding, strict=True
        )
    ]
    if tuple(needed) == pool.input_size or min(reached) < 1:  # below 1: only padding is read
        return input, geometry.padding, pool
    (p_h, p_w), (h, w) = geometry.padding, geometry.input_size
    image = F.pad(input, (p_w, reached[1] - w, p_h, reached[0] - h))  # below 0: cut off
    return image, (0, 0), dataclasses.replace(pool, input_size=tuple(needed), ceil_mode=True)


@operator("conv_relu_max_pool_forward_few_channels", pooled_and_code)
def forward_few_channels(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
) -> tuple[Tensor, Tensor]:
    """X (N, C_in, H, W) → max-pooled ReLU of its convolution (N, C_out, P, Q) and its code, uint8."""
    from cnnexp.kernels.cpu import few_channels

    output, code = pooled_and_code(input, weight, bias, conv, pool)
    c_out, c_in = weight.size(0), weight.size(1)
    wide = widened(weight.detach())
    kernels = wide.permute(2, 3, 1, 0).reshape(-1, c_out).contiguous().numpy()
    biases = bias_of(bias, output)
    fields = receptive_fields(conv, pool, c_in)
    few_channels.forward_few_channels(
        array_of(input), kernels, biases, fields, array_of(output), array_of(code)
    )
    return output, code


@operator("conv_relu_max_pool_forward_pairs", pooled_and_code)
def forward_pairs(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
) -> tuple[Tensor, Tensor]:
    """As :func:`forward_few_channels`, in bfloat16 where ``bfloat16.has_windows``."""
    output, code = pooled_and_code(input, weight, bias, conv, pool)
    if input.dtype != torch.bfloat16 or not bfloat16.has_windows(conv, pool, *weight.shape[1::-1]):
        raise RuntimeError(
            "conv_relu_max_pool_forward_pairs takes bfloat16 of at least 16 channels into a multiple of 32, "
            f"and windows that do not overlap, not {input.dtype}, {tuple(weight.shape)} and {pool}"
        )
    bfloat16.max_forward(input, weight, bias, conv, pool, output, code)
    return output, code


@operator("conv_relu_pool_spread", spread_image)
def pool_spread(
    grad_output: Tensor, code: Tensor, pool: WindowGeometry, divisor: Tensor | None
) -> Tensor:
    """∂L/∂(pooled) (N, C_out, P, Q) → ∂L/∂(convolution's output) (N, C_out, H, W)."""
    from cnnexp.kernels.cpu import pooling

    if grad_output.dtype == torch.bfloat16:
        return pool_spread(grad_output.float(), code, pool, divisor).bfloat16()
    image = spread_image(grad_output, code, pool, divisor)
    arguments = array_of(grad_output), array_of(code), pool_windows(pool)
    if divisor is None:
        pooling.max_spread(*arguments, array_of(image))
    else:
        pooling.avg_spread(*arguments, divisor.numpy(), array_of(image))
    return image


@operator("conv_relu_pool_gather", gathered_image)
def pool_gather(
    image: Tensor, code: Tensor, pool: WindowGeometry, divisor: Tensor | None
) -> Tensor:
    """The transpose of ``pool_spread``: (N, C_out, H, W) → (N, C_out, P, Q)."""
    from cnnexp.kernels.cpu import pooling

    if image.dtype == torch.bfloat16:
        return pool_gather(image.float(), code, pool, divisor).bfloat16()
    output = gathered_image(image, code, pool, divisor)
    arguments = array_of(image), array_of(code), pool_windows(pool)
    if divisor is None:
        pooling.max_gather(*arguments, array_of(output))
    else:
        pooling.avg_gather(*arguments, divisor.numpy(), array_of(output))
    return output


def _kernel_and_bias(
    grad_output: Tensor, code: Tensor, input: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> tuple[Tensor, Tensor]:
    admit(input, pool, conv, average=False)
    made = input.new_empty(grad_output.size(1), *conv.kernel_size, input.size(1))
    return made.permute(0, 3, 1, 2), input.new_empty(grad_output.size(1))


@operator("conv_relu_max_pool_grad_weight", _kernel_and_bias)
def winners_grad_weight(
    grad_output: Tensor, code: Tensor, input: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> tuple[Tensor, Tensor]:
    """∂L/∂w (C_out, C_in, K_h, K_w) and ∂L/∂b (C_out,) from ∂L/∂(pooled), its code and x: (N, C_in, H, W)."""
    admit(input, pool, conv, average=False)
    c_out, c_in = grad_output.size(1), input.size(1)
    half = input.dtype == torch.bfloat16
    if half and bfloat16.has_pairs(conv, pool, c_in, c_out):
        return bfloat16.grad_weight(grad_output, code, input, conv, pool)
    if c_in < FEW_CHANNELS:
        weight, bias = _sum_few_channels(grad_output, input, code, conv, pool)
    else:
        weight, bias = _sum_winners(widened(grad_output), widened(input), code, conv, pool)
    weight = weight.to(input.dtype).reshape(c_out, *conv.kernel_size, c_in)
    return weight.permute(0, 3, 1, 2), bias.to(input.dtype)


def _sum_few_channels(
    grad_output: Tensor, input: Tensor, code: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> tuple[Tensor, Tensor]:
    """∂L/∂w (C_out, K_h·K_w·C_in) and ∂L/∂b where vectors run along the channels of the output."""
    from cnnexp.kernels.cpu import few_channels

    c_out, c_in = grad_output.size(1), input.size(1)
    row = c_in * math.prod(conv.kernel_size)
    rows = -(-row // 4) * 4  # torch's order of a sum depends on its shape: no bit is to change
    like = widened(input.new_empty(0))
    parts, shares = like.new_empty(_PARTS, rows, c_out), like.new_empty(_PARTS, c_out)
    arrays = array_of(input), array_of(code), array_of(grad_output)
    fields = receptive_fields(conv, pool, c_in)
    few_channels.grad_weight_few_channels(*arrays, fields, parts.numpy(), shares.numpy())
    return parts.sum(0)[:row].t().contiguous(), shares.sum(0)


def _sum_winners(
    grad_output: Tensor, input: Tensor, code: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> tuple[Tensor, Tensor]:
    """∂L/∂w (C_out, K_h·K_w·C_in) and ∂L/∂b where vectors run along the channels of the input."""
    from cnnexp.kernels.cpu import sparse, winners

    c_out, c_in, taps = grad_output.size(1), input.size(1), math.prod(conv.kernel_size)
    channels = _together(conv, c_in)
    fields = receptive_fields(conv, pool, channels)
    together = min(-(-_LONG // len(fields.places)), _MOST_IMAGES)
    tasks = max(1, min(_PARTS // -(-c_out // sparse.BLOCK), input.size(0) // together))
    arrays = array_of(input), array_of(code), array_of(grad_output)
    parts = np.empty((tasks, c_in // channels, c_out, taps * channels), arrays[0].dtype)
    shares = np.empty((tasks, c_out, winners.SHARES), arrays[0].dtype)
    sparse.grad_weight(*arrays, fields, channels, together, parts, shares)
    weight, bias = input.new_empty(c_out, taps, c_in), input.new_empty(c_out)
    sparse.collect(parts, shares, weight.numpy(), bias.numpy())
    return weight.view(c_out, -1), bias


def _together(conv: Conv2dGeometry, channels: int) -> int:
    """How many channels of the input the gradients go through at once.

    The nine vectors of a slice of a 3×3 kernel fit into registers, and what a task reads fits into the first
    cache.
    """
    from cnnexp.kernels.cpu import sparse

    alike = conv.kernel_size == (3, 3) and conv.dilation[1] == 1
    return sparse.SLICE if alike and channels % sparse.SLICE == 0 else channels


def _image_of(
    grad_output: Tensor, code: Tensor, weight: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> Tensor:
    admit(grad_output, pool, conv, average=False)
    return new_image(grad_output, weight.size(1), conv.input_size)


@operator("conv_relu_max_pool_grad_input", _image_of)
def winners_grad_input(
    grad_output: Tensor, code: Tensor, weight: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> Tensor:
    """∂L/∂x (N, C_in, H, W) from ∂L/∂(pooled), its code and w."""
    from cnnexp.kernels.cpu import sparse

    grad = _image_of(grad_output, code, weight, conv, pool)
    if weight.dtype == torch.bfloat16:
        if bfloat16.has_pairs(conv, pool, weight.size(1), weight.size(0)):
            bfloat16.grad_input(grad_output, code, weight, conv, pool, grad)
            return grad
        wide = grad_output.float(), code, weight.float()
        return winners_grad_input(*wide, conv, pool).bfloat16()
    c_out, c_in, taps = weight.size(0), weight.size(1), math.prod(conv.kernel_size)
    channels = _together(conv, c_in)
    fields = receptive_fields(conv, pool, channels)
    whole = array_of(weight).reshape(c_out, taps, c_in)
    kernels = np.empty((c_in // channels, c_out, taps * channels), whole.dtype)
    sparse.slice_kernels(whole, kernels)
    arrays = kernels, array_of(code), array_of(grad_output)
    images = max(1, min(_POSITIONS // len(fields.places), grad.size(0) // _PARTS))
    sparse.grad_input(*arrays, fields, channels, images, array_of(grad))
    return grad
