"""The CPU kernels of the fused block in bfloat16: what they are handed, and where they are the way.

Products are of bfloat16, sums of float32, and a result is rounded once. Memory is what a step costs most, and
half the bytes move; the processor multiplies pairs of them at once (``pairs``).
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu.llvm import LLVM_PRESSES
from cnnexp.kernels.cpu.tables import pool_windows, receptive_fields

__all__ = [
    "AVAILABLE",
    "bits_of",
    "grad_input",
    "grad_weight",
    "has_pairs",
    "has_windows",
    "max_forward",
    "max_pooled",
]

_LANES = 32  # of bfloat16 in a vector
_FEWEST_CHANNELS = 16  # of the input; below, more than half of a vector would be zeros
_CHANNELS_TOGETHER = 16  # of the output, whose lists of winners are written together
_ENTRIES = 1 << 16  # that a list can tell apart
_TASKS = 16  # how finely sums are split at most, whatever the number of threads


def _available() -> bool:
    """Whether this processor multiplies pairs of bfloat16, and numba compiles for it as it is."""
    able = getattr(torch.cpu, "get_capabilities", dict)()  # of torch 2.11 and later
    needed = ("avx512_bf16", "avx512_vbmi2")  # the latter presses lists together
    as_it_is = not {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"} & set(os.environ)
    return LLVM_PRESSES and as_it_is and all(able.get(name, False) for name in needed)


AVAILABLE = _available()


def bits_of(image: Tensor) -> np.ndarray:
    """(N, C, H, W) → the same memory as (N, H, W, C) in uint16, copied only if it is in another layout."""
    return image.detach().permute(0, 2, 3, 1).contiguous().view(torch.uint16).numpy()


def max_pooled(image: Tensor, pool: WindowGeometry, output: Tensor, code: Tensor) -> None:
    """Max-pooled ReLU of ``image`` (N, C, H, W) into ``output`` and ``code`` (N, C, P, Q)."""
    from cnnexp.kernels.cpu import pooling

    codes = code.permute(0, 2, 3, 1).numpy()
    bits = bits_of(image).view(np.int16), bits_of(output).view(np.int16)
    pooling.max_forward_half(bits[0], pool_windows(pool), bits[1], codes)


def has_windows(conv: Conv2dGeometry, pool: WindowGeometry, c_in: int, c_out: int) -> bool:
    """Whether the forward sums what windows read by pairs; none of it twice, so they do not overlap."""
    filled = c_in >= _FEWEST_CHANNELS and c_out % _LANES == 0
    return filled and conv.groups == 1 and not pool.overlapping


def max_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    output: Tensor,
    code: Tensor,
) -> None:
    """Max-pooled ReLU of a convolution: x (N, C_in, H, W) → ``output`` and ``code`` (N, C_out, P, Q)."""
    from cnnexp.kernels.cpu import pairs_forward

    c_out, c_in, *_ = weight.shape
    channels = c_in + c_in % 2
    shift = np.zeros(c_out, np.float32) if bias is None else bias.detach().float().numpy()
    fields = receptive_fields(conv, pool, channels)
    enough = -(-pairs_forward.ELEMENTS // fields.places.size)
    taps, together = math.prod(conv.kernel_size), pairs_forward.CHANNELS
    kernels = np.empty((c_out // together, taps * channels // 2, together), np.uint32)
    pairs_forward.pair_kernels(bits_of(weight).reshape(c_out, taps, c_in), kernels)
    pairs_forward.max_forward(
        bits_of(input),
        kernels.view(np.uint16),
        np.ascontiguousarray(shift),
        fields,
        channels,
        max(1, min(enough, input.size(0) // _TASKS)),
        bits_of(output).view(np.int16),
        code.permute(0, 2, 3, 1).numpy(),
    )


def has_pairs(conv: Conv2dGeometry, pool: WindowGeometry, c_in: int, c_out: int) -> bool:
    """Whether the gradients of such a block multiply pairs; else they take those of float32."""
    positions, window = math.prod(pool.output_size), math.prod(pool.kernel_size)
    entries = _together(positions) * positions * window
    return (
        c_in >= _FEWEST_CHANNELS
        and c_out % _CHANNELS_TOGETHER == 0
        and max(entries, c_out) < _ENTRIES
    )


def grad_weight(
    grad_output: Tensor, code: Tensor, input: Tensor, conv: Conv2dGeometry, pool: WindowGeometry
) -> tuple[Tensor, Tensor]:
    """∂L/∂w (C_out, C_in, K_h, K_w) and ∂L/∂b from ∂L/∂(pooled), its code and x: (N, C_in, H, W)."""
    from cnnexp.kernels.cpu import pairs_sparse, winners

    c_out, c_in, taps = grad_output.size(1), input.size(1), math.prod(conv.kernel_size)
    channels = _filled_up(c_in)
    fields = receptive_fields(conv, pool, channels)
    together = _together(len(fields.places))
    blocks = -(-c_out // pairs_sparse.BLOCK)
    tasks = max(1, min(_TASKS // blocks, input.size(0) // together))
    parts = np.empty((tasks, c_out, taps * channels), np.float32)
    codes = code.permute(0, 2, 3, 1).contiguous().numpy()
    arrays = bits_of(input), codes, bits_of(grad_output)
    shares = np.empty((tasks, c_out, winners.SHARES), np.float32)
    pairs_sparse.grad_weight(*arrays, fields, channels, together, parts, shares)
    made, bias = input.new_empty(c_out, taps, c_in), input.new_empty(c_out, dtype=torch.float32)
    pairs_sparse.collect(parts, shares, made.view(torch.uint16).numpy(), bias.numpy())
    return made.view(c_out, *conv.kernel_size, c_in).permute(0, 3, 1, 2), bias.bfloat16()


def grad_input(
    grad_output: Tensor,
    code: Tensor,
    weight: Tensor,
    conv: Conv2dGeometry,
    pool: WindowGeometry,
    grad: Tensor,
) -> None:
    """∂L/∂x into ``grad`` (N, C_in, H, W) from ∂L/∂(pooled), its code and w."""
    from cnnexp.kernels.cpu import pairs_sparse

    c_out, c_in, taps = grad_output.size(1), weight.size(1), math.prod(conv.kernel_size)
    channels = _filled_up(c_in)
    kernels = weight.new_empty(c_out + 1, taps * channels).view(torch.uint16).numpy()
    pairs_sparse.spread_kernels(bits_of(weight).reshape(c_out, taps, c_in), kernels)
    codes = code.permute(0, 2, 3, 1).contiguous().numpy()
    fields = receptive_fields(conv, pool, channels)
    like = np.empty(0, np.float32)
    arguments = kernels, codes, bits_of(grad_output), fields, channels, like
    pairs_sparse.grad_input(*arguments, bits_of(grad))


def _filled_up(channels: int) -> int:
    return -(-channels // _LANES) * _LANES


def _together(positions: int) -> int:
    """How many images share lists of winners, so that these are long enough."""
    return -(-_LANES // positions)
