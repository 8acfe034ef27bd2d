"""CPU kernels of a convolution of few channels, alone or with activation and pooling behind it.

    z[n, o, i, j] = b[o] + Σ_{c,u,v} x[n, c, i + u·d − p, j + v·d − p]·w[o, c, u, v]
    y = z, or what ``narrow_planes`` makes of z

A library's convolution fills its vectors with channels, eight or sixteen of them, and moves an image
through memory for each step. Here vectors run along the pixels of all rows, in planes that are padded, an
image stays in the cache from its first number to its last, and ∂L/∂z is never written.

Loops (outermost first), and what stays in registers:

    forward      image, some o, vectors of pixels, tap             a sum a vector
    grad_weight  part of the batch, images, some o, taps, pixels   a sum a tap and o
    grad_input   image, some c, vectors of pixels, tap             a sum a vector

Between two rows vectors compute what nobody reads; in ∂L/∂w these products are with zeros, so that an
infinite x makes a NaN of weights that it has no part in.

Work is split by the shapes alone, never by the number of threads: the order of every sum is the same on
every run.

Compiled by numba on first use and kept in its cache (see ``stale``).
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange

from cnnexp.kernels.cpu.behind import RELU_MAX, TANH
from cnnexp.kernels.cpu.narrow_planes import behind, finish, read, write
from cnnexp.kernels.cpu.narrow_tiles import LANES, SHARES, TILES, shares_of, sums_of
from cnnexp.kernels.cpu.numbers import aligned
from cnnexp.kernels.cpu.precision import narrow, numbers_at, wide
from cnnexp.kernels.cpu.vector import COMPILE, VECTOR_BYTES, lanes_of

__all__ = [
    "SLACK",
    "TASKS",
    "add_shares",
    "convolve",
    "forward",
    "grad_input",
    "grad_weight",
    "group_of",
    "leave",
    "outputs_of",
    "tiles_of",
]

_sums_0, _sums_1, _sums_2, _sums_3, _sums_4 = (sums_of(*tile) for tile in TILES)
(_taps_first, _first), (_taps_then, _then) = SHARES
_shares_first, _shares_then = (shares_of(*some) for some in SHARES)
_LONGEST = max(vectors for _, vectors in TILES)
SLACK = _LONGEST * VECTOR_BYTES // 4  # positions after the last that a tile or a share may touch
TASKS = 32  # of the images, each with planes of its own
_CACHED_BYTES = 1 << 16  # of planes of images whose shares are summed together


@njit(**COMPILE)
def tiles_of(channels, vectors):
    """By the number of channels that are left, which of ``TILES`` is the next: all take the least time.

    In a cycle there are two products, or loads of two numbers, or of one vector across two lines. The last
    tile of ``vectors`` may compute more than there are.
    """
    least, chosen = np.zeros(channels + 1, np.int64), np.zeros(channels + 1, np.int64)
    for left in range(1, channels + 1):
        for k in range(len(TILES)):
            outputs, many = TILES[k]
            if outputs > left:
                continue
            of_tile = max(outputs * many, outputs + 2 * many)
            cost = least[left - outputs] + -(-vectors // many) * of_tile
            if least[left] == 0 or cost < least[left]:
                least[left], chosen[left] = cost, k
    return chosen


@njit(**COMPILE)
def convolve(source, reads, count, taps, tiles, start, channels, length, plane, out):
    """Leave in the planes of ``out`` the sums of ``source`` with the ``count`` taps of :func:`_taps`."""
    lanes = lanes_of(out)
    vectors, o = -(-length // lanes), 0
    while o < channels:
        to, at, k = o * plane, o * count, tiles[channels - o]
        some = -(-vectors // TILES[k][1])
        if k == 0:
            _sums_0(out, to, plane, source, reads, count, taps, at, start, o, some)
        elif k == 1:
            _sums_1(out, to, plane, source, reads, count, taps, at, start, o, some)
        elif k == 2:
            _sums_2(out, to, plane, source, reads, count, taps, at, start, o, some)
        elif k == 3:
            _sums_3(out, to, plane, source, reads, count, taps, at, start, o, some)
        else:
            _sums_4(out, to, plane, source, reads, count, taps, at, start, o, some)
        o += TILES[k][0]


@njit(**COMPILE)
def _taps(weight, shape, backward, tiles, like):
    """The kernels (C_out, C_in, K) in the order in which :func:`convolve` takes them by such ``tiles``.

    Forwards the taps are (c, u, v) for each o; ``backward`` they are (o, u, v), turned around, for each c.
    """
    c_out, c_in, size = shape
    into, of = (c_in, c_out) if backward else (c_out, c_in)
    made = aligned(into * of * size, like)
    o = 0
    while o < into:
        some, base = TILES[tiles[into - o]][0], o * of * size
        for k in range(some):
            for c in range(of):
                for s in range(size):
                    at = ((o + k) * c_in + c) * size + s
                    if backward:
                        at = (c * c_in + o + k) * size + size - 1 - s
                    made[base + (c * size + s) * some + k] = wide(weight[at])
        o += some
    return made


@njit(parallel=True, **COMPILE)
def forward(addresses, element, images, shape, lasts, geometry, reads, after, like):
    """Leave y, and what the backward needs of it, at their addresses.

    Args:
        addresses: Of x, w, b (0 for none), what is kept (0 for nothing) and y.
        element: A number of the kind of all of them.
        images: N.
        shape: C_out, C_in and K_h·K_w.
        lasts: Whether x and y have the channels last; what is kept has not.
        geometry: (H, W), (P, Q), padding, and rows and columns of a padded plane.
        reads: Where each tap (c, u, v) reads, from the pixel's place in the padded planes on.
        after: (R·S, K) windows, by places in such planes, none without pooling; (R, S); (R·S,) divisors;
            how easy these windows are, as of ``behind.SIDE_BY_SIDE``, 0 if they are not;
            what is behind the convolution, of ``behind``.
        like: An array of the kind of the sums.
    """
    (c_out, c_in, area), (size, shown, pad, pitch) = shape, geometry
    windows, pooled, divisors, easy, kind = after
    pixels = shown[0] * shown[1]
    results = windows.shape[0] if windows.shape[0] else pixels
    x = carray(numbers_at(addresses[0], element), images * c_in * size[0] * size[1])
    weight = carray(numbers_at(addresses[1], element), c_out * c_in * area)
    active, coded = kind == TANH, kind == RELU_MAX
    kept = carray(numbers_at(addresses[3], element), images * c_out * pixels if active else 0)
    codes = carray(numbers_at(addresses[3], np.uint8(0)), images * c_out * results if coded else 0)
    output = carray(numbers_at(addresses[4], element), images * c_out * results)
    wide_row, padded = pitch[1], pitch[0] * pitch[1]
    length = (shown[0] - 1) * wide_row + shown[1]
    tiles = tiles_of(c_out, -(-length // (VECTOR_BYTES // like.itemsize)))
    taps, start = _taps(weight, shape, False, tiles, like), aligned(c_out, like)
    if addresses[2] != 0:
        bias = carray(numbers_at(addresses[2], element), c_out)
        for c in range(c_out):
            start[c] = wide(bias[c])
    plane, tasks, count = length + SLACK, min(TASKS, images), reads.size
    for task in prange(tasks):
        planes = aligned(c_in * padded + SLACK, like)
        values, means = (
            aligned(c_out * plane, like),
            aligned(c_out * windows.shape[0] + LANES, like),
        )
        best, marks = aligned(plane if coded else 1, like), aligned(plane if coded else 1, like)
        for n in range(images * task // tasks, images * (task + 1) // tasks):
            at = pad[0] * wide_row + pad[1]
            read(x, n, c_in, size, lasts[0], at, wide_row, padded, planes)
            convolve(planes, reads, count, taps, tiles, start, c_out, length, plane, values)
            rest = windows, pooled, divisors, easy, kind
            room = means, best, marks
            finish(values, plane, wide_row, shown, n, c_out, rest, kept, codes, room)
            if windows.shape[0]:
                of_means = means, windows.shape[0], pooled[1], pooled
                write(*of_means, output, n, c_out, lasts[1])
            else:
                write(values, plane, wide_row, shown, output, n, c_out, lasts[1])


@njit(**COMPILE)
def group_of(size):
    """How many images, whose planes take ``size`` bytes each, are summed together."""
    return max(1, _CACHED_BYTES // size)


@njit(parallel=True, **COMPILE)
def grad_weight(addresses, element, images, shape, lasts, geometry, reads, after, parts, like):
    """Leave ∂L/∂w and ∂L/∂b at their addresses, sums over ``parts`` of the batch, in order.

    Args:
        addresses: Of x, ∂L/∂y, what was kept (0 for nothing), ∂L/∂w and ∂L/∂b.
        lasts: Whether x and ∂L/∂y have the channels last.
        reads: As of :func:`forward`; then that of the bias, which reads ones; and ``SPARE`` more.
        parts: Into how many sums the batch is cut.
        element, images, shape, geometry, after, like: As of :func:`forward`.
    """
    (c_out, c_in, area), (size, shown, pad, pitch) = shape, geometry
    windows, pooled, divisors, easy, kind = after
    pixels, weights = shown[0] * shown[1], c_in * area
    results = windows.shape[0] if windows.shape[0] else pixels
    x = carray(numbers_at(addresses[0], element), images * c_in * size[0] * size[1])
    grad = carray(numbers_at(addresses[1], element), images * c_out * results)
    active, coded = kind == TANH, kind == RELU_MAX
    kept = carray(numbers_at(addresses[2], element), images * c_out * pixels if active else 0)
    codes = carray(numbers_at(addresses[2], np.uint8(0)), images * c_out * results if coded else 0)
    wide_row, padded = pitch[1], pitch[0] * pitch[1]
    length = (shown[0] - 1) * wide_row + shown[1]
    steps = -(-length // LANES)
    plane = steps * LANES + SLACK
    # numbers of an image in the planes of x, with a plane of ones, and in those of ∂L/∂z
    apart = (-(-((c_in + 1) * padded) // LANES) * LANES + SLACK, outputs_of(c_out) * plane)
    # by what is summed alone: the slack is other on other machines, and the order of the sum is not to be
    numbers = (c_in + 1) * padded + (c_out + c_out % 2) * steps * LANES
    group = group_of(numbers * like.itemsize)
    totals = np.zeros((parts, outputs_of(c_out) * reads.size), like.dtype)
    for part in prange(parts):
        first, last = images * part // parts, images * (part + 1) // parts
        some = min(group, last - first)
        planes, grads = aligned(some * apart[0], like), aligned(some * apart[1], like)
        for g in range(some):
            for k in range(g * apart[0] + c_in * padded, (g + 1) * apart[0]):
                planes[k] = 1
        means = aligned(c_out * windows.shape[0] + LANES, like)
        one = aligned(_first * reads.size, like)
        for begin in range(first, last, some):
            many = min(some, last - begin)
            for g in range(many):
                at = g * apart[0] + pad[0] * wide_row + pad[1]
                read(x, begin + g, c_in, size, lasts[0], at, wide_row, padded, planes)
                # the windows say places from the beginning of an image's planes on
                layout, own = (0, wide_row, plane), grads[g * apart[1] : (g + 1) * apart[1]]
                rest = windows, pooled, divisors, easy, kind
                n, mine = begin + g, grad[(begin + g) * c_out * results :]
                behind(mine, kept, codes, n, c_out, lasts[1], shown, layout, rest, means, own)
            layout = plane, steps, many, apart
            add_shares(totals[part], one, planes, reads, weights + 1, grads, c_out, layout)
    weight = carray(numbers_at(addresses[3], element), c_out * weights)
    bias = carray(numbers_at(addresses[4], element), c_out)
    leave(totals, reads.size, weight, bias)


@njit(**COMPILE)
def outputs_of(channels):
    """So many channels, and those beside the last that are summed with them."""
    return -(-channels // _first) * _first


@njit(**COMPILE)
def add_shares(total, one, planes, reads, count, grads, c_out, layout):
    """Add to ``total`` what the images of ``planes`` and ``grads`` give, for ``count`` taps of ``reads``.

    Of output o, one of S that are summed together, tap t is at o'·T + t·S + o − o'; o' is the first of them,
    T the size of ``reads``. ``one`` is memory for them.
    """
    plane, steps, many, apart = layout
    o = 0
    while o < c_out:
        of, to = o * plane, o * reads.size
        some = _first if c_out - o > _then else _then
        if some == _first:
            for t in range(0, count, _taps_first):
                at = t * some
                _shares_first(one, at, planes, reads, t, grads, of, plane, steps, many, apart)
        else:
            for t in range(0, count, _taps_then):
                at = t * some
                _shares_then(one, at, planes, reads, t, grads, of, plane, steps, many, apart)
        for k in range(count * some):
            total[to + k] += one[k]
        o += some


@njit(**COMPILE)
def leave(totals, taps, weight, bias):
    """Leave the sums over all parts in ``weight`` and ``bias``; ``totals`` as :func:`add_shares` has it."""
    c_out, total = bias.size, totals[0]
    for part in range(1, totals.shape[0]):
        total += totals[part]
    weights, o = weight.size // c_out, 0
    while o < c_out:
        some = _first if c_out - o > _then else _then
        for k in range(min(some, c_out - o)):
            base = o * taps + k
            for t in range(weights):
                weight[(o + k) * weights + t] = narrow(total[base + t * some], weight)
            bias[o + k] = narrow(total[base + weights * some], bias)
        o += some


@njit(parallel=True, **COMPILE)
def grad_input(addresses, element, images, shape, lasts, geometry, reads, after, like):
    """Leave ∂L/∂x at its address: the convolution of ∂L/∂z with the kernels turned around.

    Args:
        addresses: Of ∂L/∂y, what was kept (0 for nothing), w and ∂L/∂x.
        lasts: Whether ∂L/∂y and ∂L/∂x have the channels last.
        geometry: (P, Q), (H, W), padding of ∂L/∂z, and rows and columns of a padded plane of it.
        reads: Where each tap (o, u, v) reads.
        after: As of :func:`forward`, the windows by places in the padded planes of ∂L/∂z.
        element, images, shape, like: As of :func:`forward`.
    """
    (c_out, c_in, area), (size, shown, pad, pitch) = shape, geometry
    windows, pooled, divisors, easy, kind = after
    pixels, inputs = size[0] * size[1], shown[0] * shown[1]
    results = windows.shape[0] if windows.shape[0] else pixels
    grad = carray(numbers_at(addresses[0], element), images * c_out * results)
    active, coded = kind == TANH, kind == RELU_MAX
    kept = carray(numbers_at(addresses[1], element), images * c_out * pixels if active else 0)
    codes = carray(numbers_at(addresses[1], np.uint8(0)), images * c_out * results if coded else 0)
    weight = carray(numbers_at(addresses[2], element), c_out * c_in * area)
    output = carray(numbers_at(addresses[3], element), images * c_in * inputs)
    wide_row, padded = pitch[1], pitch[0] * pitch[1]
    length = (shown[0] - 1) * wide_row + shown[1]
    tiles = tiles_of(c_in, -(-length // (VECTOR_BYTES // like.itemsize)))
    taps, nothing = _taps(weight, shape, True, tiles, like), aligned(c_in, like)
    plane, tasks, count = length + SLACK, min(TASKS, images), reads.size
    for task in prange(tasks):
        planes = aligned(c_out * padded + SLACK, like)
        values, means = aligned(c_in * plane, like), aligned(c_out * windows.shape[0] + LANES, like)
        for n in range(images * task // tasks, images * (task + 1) // tasks):
            layout = pad[0] * wide_row + pad[1], wide_row, padded
            # numba takes no tuple of tuples into a loop
            rest = windows, pooled, divisors, easy, kind
            mine = grad[n * c_out * results :]
            behind(mine, kept, codes, n, c_out, lasts[0], size, layout, rest, means, planes)
            convolve(planes, reads, count, taps, tiles, nothing, c_in, length, plane, values)
            write(values, plane, wide_row, shown, output, n, c_in, lasts[1])
