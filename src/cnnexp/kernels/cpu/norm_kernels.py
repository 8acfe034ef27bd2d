"""CPU kernels for the squared norms of each image's ∂L/∂w and ∂L/∂b, of a convolution that was max-pooled.

As in ``sparse``, only the winners are multiplied. With g[n, l, o] the gradient of the pooled position l, and
patch(n, m) what the element m of a window, the winner m(l, o) for instance, was computed from,

    row_norms         Σ_o ‖ Σ_l g[n, l, o]·patch(n, m(l, o)) ‖²
    gram_norms        Σ_o Σ_{m, m'} s[m, o]·K[m, m']·s[m', o]          K[m, m'] = patch(n, m)·patch(n, m')
    one_window_norms  Σ_o g[n, o]²·‖patch(n, m(o))‖²                   where the image is one window

and s[m, o] the sum of g[n, l, o] over the windows that m won. Patches overlap, so K is computed from the
products of pixels, x[a]·x[b] for each pair once, by K_h·K_w additions an element:

    K[m, m'] = Σ_{u, v} x[pixel(m, u, v)]·x[pixel(m', u, v)]

No kernel needs batch × parameters. Of few input channels the gradient of an image is so small that
``few_channels.grad_weight_few_channels`` writes it, an image a task, for ``written_norms``; row_norms has it
row by row, and keeps the rows if they are few. What was written spares the clipped sum a pass over the
winners: ``weighted_images`` reads it once.

Loops (outermost first), and what stays in registers:

    row_norms         image, o, group of pieces, winner                a row of the kernel
    gram_norms        image: four pixels, c; four m, m'                four rows of products, of K·s
    one_window_norms  image: pixel, c; o                               sixteen sums

Products: row_norms C_in·K_h·K_w for each element that is alive; gram_norms C_in·(H·W)²/2 for pixels and
C_out·M²/2 for the form, M the elements of all windows; one_window_norms C_in·H·W + C_out. x, code and ∂L/∂y
are read once; between them stand, in the cache of a core, the padded image and a row of the weight, or
(H·W)²/2 + M·C_out numbers. One task sums an image, in an order that is the same on every run.

Processor time of one thread, halved, for the article's blocks (batch 128, float32): the second takes 2.2 ms
by rows (with rows that are kept 2.5, and their weighted sum 0.4 where a pass over the winners takes 3.2) and
13 by Gram, the third 2.1 and 0.8, the fourth 3.3 and 0.2, and as one window 0.06; the first, written, 1.1.
``python benchmarks/kernels.py`` times what is chosen beside the library's gradient of the whole batch.
"""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false

from __future__ import annotations

import numpy as np
from numba import njit, prange

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.sparse import pad_into
from cnnexp.kernels.cpu.vector import (
    COMPILE,
    four_sums,
    weighted_sum,
    weighted_sum_of_rows,
)

__all__ = ["gram_norms", "one_window_norms", "row_norms", "weighted_images", "written_norms"]

_PIECE = 256  # numbers of a weighted sum that stand in registers

# of the sums that are split, on every processor: so a vector's length changes no rounding
_LANES = 16
_CODES = 256


@njit(**COMPILE)
def _sum(values):
    total = 0.0
    for value in values:
        total += value
    return total


@njit(**COMPILE)
def _sum_of_squares(values):
    total = 0.0
    for value in values:
        total += np.float64(value) * value
    return total


@njit(**COMPILE)
def _add_alive(grad, winner, sums):
    """sums[o] += grad[o], if the ReLU let o pass."""
    for o in range(sums.size):
        sums[o] += grad[o] if winner[o] != DEAD else 0


@njit(parallel=True, **COMPILE)
def row_norms(x, code, grad_output, fields, tasks, norms, biases, gradients):
    """Both norms, in ``norms`` (2, N), by the row of ∂L/∂w of one image and output channel at a time.

    The rows stay in ``gradients`` (N, C_out, K_h·K_w·C_in), or are dropped where that has no image.
    """
    n_all, _, _, c_in = x.shape
    places, padded = fields.places, fields.padded
    groups, rows, step, length = fields.groups, fields.rows, fields.step, fields.length
    positions, c_out = places.shape[0], code.shape[-1]
    codes = code.reshape(n_all, positions, c_out)
    grads = grad_output.reshape(n_all, positions, c_out)
    size = groups.size * rows * length
    for task in prange(tasks):
        image = np.zeros(padded[0] * padded[1] * c_in, x.dtype)
        offsets = np.empty(positions, np.int64)
        weights = np.empty(positions, x.dtype)
        row, squares = np.empty(size, x.dtype), np.empty(size, x.dtype)
        for n in range(n_all * task // tasks, n_all * (task + 1) // tasks):
            pad_into(x[n], padded, image)
            winner, grad = codes[n], grads[n]
            squares[:] = 0
            biases[n] = 0
            for position in range(positions):
                _add_alive(grad[position], winner[position], biases[n])
            for o in range(c_out):
                count = 0
                for position in range(positions):
                    k = winner[position, o]
                    # written always, counted if alive: no branch to mispredict
                    offsets[count] = places[position, 0 if k == DEAD else k]
                    weights[count] = grad[position, o]
                    count += k != DEAD
                if gradients.shape[0]:
                    row = gradients[n, o]
                row[:] = 0
                for group in range(groups.size):
                    weighted_sum_of_rows(
                        row,
                        group * rows * length,
                        length,
                        image,
                        groups[group],
                        step,
                        rows,
                        offsets,
                        weights,
                        0,
                        count,
                        length,
                    )
                for i in range(size):
                    squares[i] += row[i] * row[i]
            norms[0, n] = _sum(squares)
            norms[1, n] = _sum_of_squares(biases[n])


@njit(parallel=True, **COMPILE)
def written_norms(gradients, biases, weights, tasks, norms):
    """Both norms in ``norms`` (2, N), of the first ``weights`` rows of gradients[n] and of biases[n]."""
    n_all, _, c_out = gradients.shape
    for task in prange(tasks):
        lanes = np.empty(_LANES, np.float64)
        for n in range(n_all * task // tasks, n_all * (task + 1) // tasks):
            norms[0, n] = _norm_of(gradients[n].reshape(-1)[: weights * c_out], lanes)
            norms[1, n] = _sum_of_squares(biases[n])


@njit(parallel=True, **COMPILE)
def weighted_images(gradients, pitch, factors, total):
    """total[i] = Σ_n factors[n]·gradients[n·pitch + i], all flat."""
    offsets, size = np.arange(factors.size) * pitch, total.size
    for piece in prange((size + _PIECE - 1) // _PIECE):
        begin = piece * _PIECE
        length = min(_PIECE, size - begin)
        total[begin : begin + length] = 0
        weighted_sum(total, begin, gradients, begin, offsets, factors, 0, factors.size, length)


@njit(parallel=True, **COMPILE)
def one_window_norms(x, code, grad_output, pixels, numbers, tasks, norms):
    """Both norms, in ``norms`` (2, N), of images that are one window of the pool."""
    n_all, height, width, _ = x.shape
    c_out = code.shape[-1]
    codes, grads = code.reshape(n_all, c_out), grad_output.reshape(n_all, c_out)
    for task in prange(tasks):
        of_pixels = np.zeros(height * width + 1, x.dtype)  # the last: padding
        of_codes = np.zeros(_CODES, x.dtype)  # ‖patch‖²; 0 for what the ReLU stopped
        lanes, sums = np.empty(_LANES, np.float64), np.empty((2, _LANES), x.dtype)
        for n in range(n_all * task // tasks, n_all * (task + 1) // tasks):
            for i in range(height):
                for j in range(width):
                    of_pixels[i * width + j] = _norm_of(x[n, i, j], lanes)
            for k in range(numbers.shape[1]):
                of_codes[k] = 0
                if numbers[0, k] >= 0:
                    for pixel in pixels[numbers[0, k]]:
                        of_codes[k] += of_pixels[pixel]
            sums[:] = 0
            for o in range(c_out):
                k = codes[n, o]
                square = grads[n, o] * grads[n, o] if k != DEAD else x.dtype.type(0)
                sums[0, o % _LANES] += square * of_codes[k]
                sums[1, o % _LANES] += square
            norms[0, n], norms[1, n] = _sum(sums[0]), _sum(sums[1])


@njit(**COMPILE)
def _norm_of(values, lanes):
    """Σ values², as sixteen sums of every sixteenth."""
    lanes[:] = 0
    whole = values.size // _LANES * _LANES
    for i in range(0, whole, _LANES):
        piece = values[i : i + _LANES]
        for j in range(_LANES):
            lanes[j] += np.float64(piece[j]) * piece[j]
    for j in range(whole, values.size):
        lanes[j - whole] += np.float64(values[j]) * values[j]
    return _sum(lanes)


@njit(parallel=True, **COMPILE)
def gram_norms(x, code, grad_output, pixels, numbers, tasks, norms):
    """Both norms, in ``norms`` (2, N), by the Gram matrix of the patches of all windows."""
    n_all, height, width, c_in = x.shape
    patches, c_out, size = pixels.shape[0], code.shape[-1], height * width
    codes = code.reshape(n_all, -1, c_out)
    grads = grad_output.reshape(n_all, -1, c_out)
    fours, pitch = (size + 3) // 4 * 4, size // _LANES * _LANES + _LANES
    for task in prange(tasks):
        image = np.zeros(fours * c_in, x.dtype)
        transposed = np.zeros(c_in * pitch, x.dtype)  # with columns of zeros for the padding
        products, starts = np.zeros((fours + 1) * pitch, x.dtype), np.empty(fours + 1, np.int64)
        read_at = np.empty(pixels.shape, np.int64)
        gram = np.empty(4 * (patches + 4), x.dtype)
        shares, biases = np.empty((patches, c_out), x.dtype), np.empty(c_out, x.dtype)
        offsets = np.arange(patches) * c_out
        sums, totals = np.empty(4 * c_out, x.dtype), np.empty(c_out, x.dtype)
        for n in range(n_all * task // tasks, n_all * (task + 1) // tasks):
            image[: size * c_in] = x[n].reshape(-1)
            _transpose(image, c_in, size, pitch, transposed)
            _pixel_products(image, c_in, size, pitch, transposed, products, starts)
            for m in range(patches):
                for i in range(pixels.shape[1]):
                    read_at[m, i] = starts[pixels[m, i]]
            _share(grads[n], codes[n], numbers, shares, biases)
            totals[:] = 0
            for first in range(0, patches, 4):
                count = min(first + 4, patches)
                _four_rows(products, read_at, pixels, first, count, gram)
                four_sums(sums, 0, c_out, shares.reshape(-1), 0, offsets, gram, count, c_out)
                for m in range(first, count):
                    share, product = shares[m], sums[(m - first) * c_out : (m - first + 1) * c_out]
                    for o in range(c_out):
                        totals[o] += share[o] * product[o]
            total = _sum(totals)
            norms[0, n] = 0 if total < 0 else total  # by rounding; a NaN stays
            norms[1, n] = _sum_of_squares(biases)


@njit(**COMPILE)
def _transpose(image, channels, size, pitch, transposed):
    for c in range(channels):
        row = transposed[c * pitch : c * pitch + size]
        for a in range(size):
            row[a] = image[a * channels + c]


@njit(**COMPILE)
def _pixel_products(image, channels, size, pitch, transposed, products, starts):
    """products[starts[a] + b] = Σ_c x[a, c]·x[b, c] for pixels a ≤ b; 0 where one is ``size``: padding."""
    offsets = np.arange(channels) * pitch
    begin = 0
    for a in range(0, starts.size - 1, 4):
        first = a // _LANES * _LANES
        length = pitch - first
        weights = image[a * channels : (a + 4) * channels]
        of = transposed, first, offsets, weights, channels
        four_sums(products, begin, length, *of, length)
        for r in range(4):
            starts[a + r] = begin + r * length - first
        begin += 4 * length
    starts[size] = begin
    products[begin : begin + pitch] = 0


@njit(**COMPILE)
def _share(grads, codes, numbers, shares, biases):
    """shares[m, o]: the gradient of all windows that element m won; biases[o]: that of all m."""
    shares[:] = 0
    biases[:] = 0
    for position in range(numbers.shape[0]):
        grad, winner = grads[position], codes[position]
        for k in range(numbers.shape[1]):
            if numbers[position, k] >= 0:
                share = shares[numbers[position, k]]
                for o in range(share.size):
                    share[o] += grad[o] if winner[o] == k else 0
        _add_alive(grad, winner, biases)


@njit(**COMPILE)
def _four_rows(products, read_at, pixels, first, count, gram):
    """The rows ``first`` … of K up to the diagonal, (4, count), what is below it counted for both halves."""
    gram[:] = 0
    for m in range(first, count):
        row, own = gram[(m - first) * count : (m - first + 1) * count], pixels[m]
        for other in range(m + 1):
            before = read_at[other]
            total = products[before[0] + own[0]]
            for i in range(1, own.size):
                total += products[before[i] + own[i]]
            row[other] = total if other == m else 2 * total
