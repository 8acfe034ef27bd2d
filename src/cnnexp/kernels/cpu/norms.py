"""Squared norms of each image's gradients of the fused block, by the way that costs least for its shape.

What a way costs is counted in products of a vectorised sum; what else an element costs was measured, in such
products, on the article's blocks (see ``norm_kernels``). Of thirteen other shapes near the borders, images of
5 to 12 pixels a side and 1 to 256 channels, it chose the faster way for twelve, and 1.35 × its time for one.
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu.conv_relu_pool import FEW_CHANNELS, admit, array_of
from cnnexp.kernels.cpu.pages import empty_in_large_pages
from cnnexp.kernels.cpu.tables import patch_pixels, receptive_fields

__all__ = [
    "KEPT_NUMBERS",
    "MOST_NUMBERS",
    "WinnersNorms",
    "cheapest_way",
    "weighted_gradients",
    "winners_gradients",
    "winners_squared_norms",
]

MOST_NUMBERS = 1 << 20  # that one step writes between: 4 MiB in float32, 8 in float64
KEPT_NUMBERS = 1 << 22  # of a layer's gradients by image that are kept: 16 MiB in float32
_TASKS = 32  # at most, each with buffers of its own, of which as many exist at a time as threads
_LISTED = 100  # what the entry of a list costs
_LOOKED_UP = 24  # what an addition costs whose place is looked up


def cheapest_way(conv: Conv2dGeometry, pool: WindowGeometry, c_in: int, c_out: int) -> str:
    """``"window"``, ``"gram"``, ``"rows"``, or ``"written"``: each image's ∂L/∂w, of few input channels."""
    positions, window = math.prod(pool.output_size), math.prod(pool.kernel_size)
    pixels, weights = math.prod(conv.input_size), c_in * math.prod(conv.kernel_size)
    if positions == 1:
        return "window"
    patches = math.prod(
        min(p * k, z)
        for p, k, z in zip(pool.output_size, pool.kernel_size, pool.input_size, strict=True)
    )
    look_ups = _LOOKED_UP * math.prod(conv.kernel_size)
    gram = pixels**2 / 2 * c_in + patches**2 / 2 * (look_ups + c_out)
    if c_in < FEW_CHANNELS:
        other, cost = "written", 2 * positions * window * c_out * weights
    else:
        other, cost = "rows", positions * c_out * (weights + _LISTED)
    fits = max(pixels**2, patches * c_out) <= MOST_NUMBERS
    return "gram" if fits and gram < cost else other


class WinnersNorms(NamedTuple):
    """Of the gradients of N images; see :func:`winners_squared_norms`."""

    weight: Tensor
    bias: Tensor
    gradients: Tensor | None
    biases: Tensor | None


def winners_squared_norms(
    grad_output: Tensor,
    code: Tensor,
    input: Tensor,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    way: str | None = None,
) -> WinnersNorms:
    """‖∂L/∂w‖² and ‖∂L/∂b‖², (N,) in float64, of each image, and the gradients themselves if they are few.

    Those are ∂L/∂w (N, C_out, C_in, K_h, K_w) and ∂L/∂b (N, C_out) where the way came by the first and it is
    at most ``KEPT_NUMBERS`` numbers; else None. Beside them and the norms the ways write at most
    ``MOST_NUMBERS`` numbers, or what one image needs, in each thread.

    Args:
        grad_output, code: ∂L/∂(pooled) and its code, (N, C_out, P, Q).
        input: (N, C_in, H, W).
        conv, pool: The geometries of both.
        way: One of :func:`cheapest_way`'s, which chooses if None. ``"window"`` needs P = Q = 1; ``"written"``
            is for C_in below ``FEW_CHANNELS``, ``"rows"`` for others.

    Raises:
        RuntimeError: The CPU kernels do not take such a block.
    """
    from cnnexp.kernels.cpu import norm_kernels

    admit(input, pool, conv, average=False)
    (n, c_in), c_out = input.shape[:2], grad_output.size(1)
    way = way or cheapest_way(conv, pool, c_in, c_out)
    if way in ("written", "rows"):
        return (_written if way == "written" else _by_rows)(grad_output, code, input, conv, pool)
    arrays = array_of(input), array_of(code), array_of(grad_output)
    norms, tasks = np.empty((2, n)), min(_TASKS, n)
    kernels = {"window": norm_kernels.one_window_norms, "gram": norm_kernels.gram_norms}
    patches = patch_pixels(conv, pool)
    kernels[way](*arrays, patches.pixels, patches.numbers, tasks, norms)
    weight, bias = torch.from_numpy(norms)
    return WinnersNorms(weight, bias, None, None)


def winners_gradients(
    grad_output: Tensor,
    code: Tensor,
    input: Tensor,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
) -> tuple[Tensor, Tensor]:
    """Each image's ∂L/∂w (N, C_out, C_in, K_h, K_w) and ∂L/∂b (N, C_out), from the winners alone.

    Args:
        grad_output, code: ∂L/∂(pooled) and its code, (N, C_out, P, Q).
        input: (N, C_in, H, W).
        conv, pool: The geometries of both.

    Raises:
        RuntimeError: The CPU kernels do not take such a block.
    """
    admit(input, pool, conv, average=False)
    few = input.size(1) < FEW_CHANNELS
    made = (_written if few else _by_rows)(grad_output, code, input, conv, pool, sys.maxsize)
    assert made.gradients is not None  # since all are kept
    assert made.biases is not None
    return made.gradients, made.biases


def _by_rows(
    grad_output: Tensor,
    code: Tensor,
    input: Tensor,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    most_kept: int | None = None,
) -> WinnersNorms:
    """By the rows of each image's ∂L/∂w, kept where they are at most ``most_kept`` or ``KEPT_NUMBERS``."""
    from cnnexp.kernels.cpu import norm_kernels

    (n, c_in), c_out = input.shape[:2], grad_output.size(1)
    weights = c_in * math.prod(conv.kernel_size)
    kept = n * c_out * weights <= (KEPT_NUMBERS if most_kept is None else most_kept)
    made = empty_in_large_pages((n if kept else 0, c_out, weights), input)
    of_bias, norms = input.new_empty(n, c_out), np.empty((2, n))
    arrays = array_of(input), array_of(code), array_of(grad_output)
    fields = receptive_fields(conv, pool, c_in)
    norm_kernels.row_norms(*arrays, fields, min(_TASKS, n), norms, of_bias.numpy(), made.numpy())
    weight, bias = torch.from_numpy(norms)
    if not kept:
        return WinnersNorms(weight, bias, None, None)
    gradients = made.unflatten(2, (*conv.kernel_size, c_in)).permute(0, 1, 4, 2, 3)
    return WinnersNorms(weight, bias, gradients, of_bias)


def _written(
    grad_output: Tensor,
    code: Tensor,
    input: Tensor,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    most_numbers: int | None = None,
) -> WinnersNorms:
    """By each image's ∂L/∂w, as many at a time as ``most_numbers`` or ``MOST_NUMBERS`` holds."""
    from cnnexp.kernels.cpu import few_channels, norm_kernels

    (n, c_in), c_out = input.shape[:2], grad_output.size(1)
    weights = c_in * math.prod(conv.kernel_size)
    rows = -(-weights // 4) * 4
    together = max(1, (MOST_NUMBERS if most_numbers is None else most_numbers) // (rows * c_out))
    fields = receptive_fields(conv, pool, c_in)
    norms, made = np.empty((2, n)), input.new_empty(0, rows, c_out)
    biases = input.new_empty(n, c_out)
    for begin in range(0, n, together):
        part = slice(begin, begin + together)
        made = input.new_empty(len(input[part]), rows, c_out)
        x, codes, grads = (array_of(each[part]) for each in (input, code, grad_output))
        sums = made.numpy(), biases[part].numpy()
        few_channels.grad_weight_few_channels(x, codes, grads, fields, *sums)
        of_part, tasks = np.empty((2, len(made))), min(_TASKS, len(made))
        norm_kernels.written_norms(*sums, weights, tasks, of_part)
        norms[:, part] = of_part
    weight, bias = torch.from_numpy(norms)
    if n > together:
        return WinnersNorms(weight, bias, None, None)
    gradients = made[:, :weights].unflatten(1, (*conv.kernel_size, c_in)).permute(0, 4, 3, 1, 2)
    return WinnersNorms(weight, bias, gradients, biases)


def weighted_gradients(gradients: Tensor, factors: Tensor) -> Tensor:
    """Σ_n factors[n]·gradients[n], from those of :func:`winners_squared_norms`: (N, C_out, C_in, K_h, K_w).

    The order of the sum is that of the images, whatever the number of threads.
    """
    from cnnexp.kernels.cpu import norm_kernels

    dims = sorted(range(1, gradients.dim()), key=gradients.stride, reverse=True)
    shape = [gradients.size(dim) for dim in dims]
    total = gradients.new_zeros(math.prod(shape))
    if len(gradients):
        pitch = gradients.stride(0)
        flat = gradients.as_strided(((len(gradients) - 1) * pitch + len(total),), (1,))
        weights = factors.to(gradients.dtype).contiguous()
        norm_kernels.weighted_images(flat.numpy(), pitch, weights.numpy(), total.numpy())
    return total.view(shape).permute([dims.index(dim) for dim in range(1, gradients.dim())])
