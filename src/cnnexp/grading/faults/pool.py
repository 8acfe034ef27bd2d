"""Pooling with mistakes: output and ∂L/∂x as the faults in ``f`` would make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from cnnexp.grading.cases import Array, Case
from cnnexp.grading.faults.conv import Faults, steps, unskipped

_Place = tuple[int, int]


class Windows:
    """The windows of a pool over ``x`` with kernel ``k``, stride ``s`` and padding ``p``."""

    def __init__(self, x: Array, k: int, s: int, p: int, fill: float) -> None:
        self.x, self.k, self.s, self.p = x, k, s, p
        self.xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), constant_values=fill)
        self.ph, self.pw = ((side + 2 * p - k) // s + 1 for side in x.shape[2:])

    def places(self, f: Faults) -> Iterator[_Place]:
        """The positions of the output that the faults let a program visit, in its order."""
        found = list(np.ndindex(*unskipped(self.ph, self.pw, f)))
        return iter(reversed(found) if "overwritten_reversed" in f else found)

    def block(self, p: int, q: int, f: Faults = frozenset()) -> tuple[slice, slice]:
        """Rows and columns of the padded image in window (p, q), as the faults have it."""
        down, across = steps(1 if "stride_forgotten" in f else self.s, f)
        return slice(p * down, p * down + self.k), slice(q * across, q * across + self.k)

    def crop(self, dxp: Array, f: Faults) -> Array:
        """What lies on the image of a gradient on the padded image."""
        p, (h, w) = self.p, self.x.shape[2:]
        if "crop_missing" in f:
            return dxp
        start = 0 if "crop_end" in f else 2 * p if "crop_start" in f else p
        return dxp[:, :, start : start + h, start : start + w]


def max_forward(case: Case, f: Faults) -> Array | None:
    """The output of max-pooling with the faults."""
    s = case.settings
    windows = Windows(case.tensors["x"], s["kernel_size"], s["stride"], s["padding"], _fill(f))
    return _reduced(windows, f, np.min if "minimum" in f else np.max)


def avg_forward(case: Case, f: Faults) -> Array | None:
    """The output of average-pooling with the faults."""
    s = case.settings
    windows = Windows(case.tensors["x"], s["kernel_size"], s["stride"], s["padding"], 0.0)
    if "sum_for_mean" in f:
        return _reduced(windows, f, np.sum)
    made = _reduced(windows, f, np.mean)
    if "padding_not_counted" in f:
        ones = Windows(np.ones_like(windows.x), s["kernel_size"], s["stride"], s["padding"], 0.0)
        return made / _reduced(ones, f, np.mean)
    return made


def _fill(f: Faults) -> float:
    return 0.0 if "zero_padding" in f else -np.inf


def _reduced(windows: Windows, f: Faults, how: Callable[..., Array]) -> Array:
    y = np.zeros((*windows.x.shape[:2], windows.ph, windows.pw))
    for p, q in windows.places(f):
        rows, cols = windows.block(p, q, f)
        y[:, :, p, q] = how(windows.xp[:, :, rows, cols], axis=(2, 3))
    return y


def max_grad(x: Array, g: Array, geometry: tuple[int, int, int], f: Faults) -> Array | None:
    """∂L/∂x of max-pooling with the faults; ``geometry`` is kernel, stride, padding."""
    windows = Windows(x, *geometry, _fill(f))
    dxp = np.zeros_like(windows.xp)
    for p, q in windows.places(f):
        rows, cols = windows.block(p, q)
        mask = _shares(windows.xp[:, :, rows, cols], f)
        sent = mask * g[:, :, p, q, None, None]
        if "value_times" in f:
            sent = sent * np.nan_to_num(windows.xp[:, :, rows, cols], posinf=0, neginf=0)
        put_rows, put_cols = windows.block(p, q, f)
        target = dxp[:, :, put_rows, put_cols]
        if "overwritten_winners" in f:
            target[mask > 0] = sent[mask > 0]
        elif f & {"overwritten_windows", "overwritten_reversed"}:
            target[...] = sent
        else:
            target += sent
    return windows.crop(dxp, f)


def _shares(values: Array, f: Faults) -> Array:
    """What part of its g each element of a window (N, C, k, k) gets."""
    n, c, k, _ = values.shape
    if "everywhere" in f:
        return np.ones_like(values)
    if "average_for_max" in f:
        return np.ones_like(values) / (k * k)
    if "ties_all" in f:
        return (values == values.max((2, 3), keepdims=True)).astype(float)
    winner = np.broadcast_to(_winner(values.reshape(n, c, k * k), f), (n, c))
    row, col = np.divmod(winner, k)
    if "winner_transposed" in f:
        row, col = col, row
    shares = np.zeros_like(values)
    np.put_along_axis(shares.reshape(n, c, k * k), (row * k + col)[..., None], 1.0, 2)
    return shares


def _winner(flat: Array, f: Faults) -> Array:
    """The offset that a program with the faults takes for that of the maximum, of windows (N, C, k·k)."""
    winner = flat.argmin(2) if "minimum" in f else flat.argmax(2)
    ways = {
        "argmax_first_image": winner[:1],
        "argmax_last_image": winner[-1:],
        "argmax_next_image": np.roll(winner, 1, 0),
        "argmax_previous_image": np.roll(winner, -1, 0),
        "argmax_first_channel": winner[:, :1],
        "argmax_last_channel": winner[:, -1:],
        "argmax_all_images": flat.max((0, 1)).argmax(),  # one maximum over batch and channels
        "first_element": np.zeros_like(winner),
    }
    return next((value for fault, value in ways.items() if fault in f), winner)


def avg_grad(case: Case, f: Faults, g: Array) -> Array | None:
    """∂L/∂x of average-pooling with the faults."""
    s = case.settings
    x, k = case.tensors["x"], s["kernel_size"]
    windows = Windows(x, k, s["stride"], s["padding"], 0.0)
    divisors = {
        "divisor_missing": 1,
        "divisor_image": x.shape[2] * x.shape[3],
        "divisor_output": windows.ph * windows.pw,
        "divisor_k": k,
        "divisor_stride": windows.s**2,
    }
    divisor = next((value for fault, value in divisors.items() if fault in f), k * k)
    counted = np.pad(np.ones_like(x), ((0, 0), (0, 0), (s["padding"],) * 2, (s["padding"],) * 2))
    dxp = np.zeros_like(windows.xp)
    for p, q in windows.places(f):
        rows, cols = windows.block(p, q)
        over = counted[:1, :1, rows, cols].sum() if "padding_not_counted" in f else divisor
        put = windows.block(p, q, f)
        target = dxp[:, :, put[0], put[1]]
        sent = g[:, :, p, q, None, None] / over
        if f & {"overwritten_windows", "overwritten_reversed"}:
            target[...] = sent
        elif "first_element" in f:
            target[:, :, :1, :1] += sent
        else:
            target += sent
    return windows.crop(dxp, f)
