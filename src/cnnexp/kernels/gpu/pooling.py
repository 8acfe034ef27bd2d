"""GPU kernels of the fused block: bias, ReLU and pooling in one pass, and the two ways back.

Images are contiguous in the order (N, height, width, channel), sums run in float32 (float64 for
float64). One lane computes one element of the result from all that it depends on, in a fixed order:
no atomic addition, so the same bits on every run. Codes are those of ``pooling``.

Each kernel reads an element of its inputs once for each window that it lies in and writes each result once;
nothing is kept in shared memory, since neighbouring lanes read neighbouring channels. ``python
benchmarks/gpu.py`` times the block beside torch's on a GPU.

With TRITON_INTERPRET=1 in the environment Triton runs them on the CPU, a program after the other in
Python; that is how they are proved where there is no GPU.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from cnnexp.kernels.compilation import watch_triton

watch_triton()


@triton.jit
def pool_forward(
    image,
    bias,
    divisors,
    output,
    code,
    count,
    channels,
    height,
    width,
    rows,
    columns,
    AVERAGE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    K_H: tl.constexpr,
    K_W: tl.constexpr,
    S_H: tl.constexpr,
    S_W: tl.constexpr,
    P_H: tl.constexpr,
    P_W: tl.constexpr,
    D_H: tl.constexpr,
    D_W: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Output = pool(relu(image + bias)) and code, ``count`` elements each."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < count
    c, q = at % channels, at // channels % columns
    p, n = at // channels // columns % rows, at // channels // columns // rows
    shift = tl.zeros([BLOCK], SUM)
    if HAS_BIAS:
        shift = tl.load(bias + c, mask=live, other=0).to(SUM)
    result = tl.zeros([BLOCK], SUM)  # the ReLU: what is not above 0 never enters
    state = tl.zeros([BLOCK], tl.int32) if AVERAGE else tl.full([BLOCK], 255, tl.int32)
    for u in range(K_H):
        i = p * S_H - P_H + u * D_H
        for v in range(K_W):
            j = q * S_W - P_W + v * D_W
            inside = live & (i >= 0) & (i < height) & (j >= 0) & (j < width)
            pixel = ((n * height + i) * width + j) * channels + c
            value = tl.load(image + pixel, mask=inside, other=0).to(SUM) + shift
            if AVERAGE:
                alive = inside & ((value > 0) | (value != value))
                result += tl.where(alive, value, 0.0)
                state |= tl.where(alive, 1 << (u * K_W + v), 0)
            else:  # as torch: the first of equals, a NaN over everything
                wins = inside & ((value > result) | (value != value))
                result = tl.where(wins, value, result)
                state = tl.where(wins, u * K_W + v, state)
    if AVERAGE:
        result /= tl.load(divisors + p * columns + q, mask=live, other=1).to(SUM)
    tl.store(output + at, result.to(output.dtype.element_ty), mask=live)
    tl.store(code + at, state.to(tl.uint8), mask=live)


@triton.jit
def pool_spread(
    grad_output,
    code,
    divisors,
    image,
    count,
    channels,
    height,
    width,
    rows,
    columns,
    AVERAGE: tl.constexpr,
    K_H: tl.constexpr,
    K_W: tl.constexpr,
    S_H: tl.constexpr,
    S_W: tl.constexpr,
    P_H: tl.constexpr,
    P_W: tl.constexpr,
    D_H: tl.constexpr,
    D_W: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Image = the gradient of the convolution's output, ``count`` elements.

    Each asks the windows that it lies in whether it had a say there.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < count
    c, j = at % channels, at // channels % width
    i, n = at // channels // width % height, at // channels // width // height
    total = tl.zeros([BLOCK], SUM)
    for u in range(K_H):
        top = i + P_H - u * D_H
        p = top // S_H
        for v in range(K_W):
            left = j + P_W - v * D_W
            q = left // S_W
            inside = live & (top >= 0) & (left >= 0) & (p < rows) & (q < columns)
            inside = inside & (top % S_H == 0) & (left % S_W == 0)
            window = ((n * rows + p) * columns + q) * channels + c
            state = tl.load(code + window, mask=inside, other=0).to(tl.int32)
            k = u * K_W + v
            chosen = inside & ((state >> k & 1 == 1) if AVERAGE else (state == k))
            grad = tl.load(grad_output + window, mask=chosen, other=0).to(SUM)
            if AVERAGE:
                grad /= tl.load(divisors + p * columns + q, mask=chosen, other=1).to(SUM)
            total += grad
    tl.store(image + at, total.to(image.dtype.element_ty), mask=live)


@triton.jit
def pool_gather(
    image,
    code,
    divisors,
    output,
    count,
    channels,
    height,
    width,
    rows,
    columns,
    AVERAGE: tl.constexpr,
    K_H: tl.constexpr,
    K_W: tl.constexpr,
    S_H: tl.constexpr,
    S_W: tl.constexpr,
    P_H: tl.constexpr,
    P_W: tl.constexpr,
    D_H: tl.constexpr,
    D_W: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The transpose of ``pool_spread``: ``count`` pooled elements from an image."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < count
    c, q = at % channels, at // channels % columns
    p, n = at // channels // columns % rows, at // channels // columns // rows
    state = tl.load(code + at, mask=live, other=0).to(tl.int32)
    total = tl.zeros([BLOCK], SUM)
    for u in range(K_H):
        i = p * S_H - P_H + u * D_H
        for v in range(K_W):
            j = q * S_W - P_W + v * D_W
            k = u * K_W + v
            chosen = live & ((state >> k & 1 == 1) if AVERAGE else (state == k))
            pixel = ((n * height + i) * width + j) * channels + c
            total += tl.load(image + pixel, mask=chosen, other=0).to(SUM)
    if AVERAGE:
        total /= tl.load(divisors + p * columns + q, mask=live, other=1).to(SUM)
    tl.store(output + at, total.to(output.dtype.element_ty), mask=live)
