"""Convolution with mistakes: output, ∂L/∂x, ∂L/∂w and ∂L/∂b as the faults in ``f`` would make them.

Every function follows the index equations of docs/derivation.md, offset by offset, and departs from them
only where a fault says so. None means that a program with this fault cannot have a result for the shapes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnexp.grading.cases import Array, Case

Faults = frozenset[str]


class Geometry:
    """The sizes of a convolution, and the windows of a padded image, as a fault has them."""

    def __init__(self, case: Case, f: Faults) -> None:
        s = case.settings
        self.x, self.w, self.b = (case.tensors[name] for name in ("x", "w", "b"))
        self.s, self.p = s["stride"], s["padding"]
        self.d, self.groups = s.get("dilation", 1), s.get("groups", 1)
        self.kh, self.kw = self.w.shape[2:]
        self.h, self.width = self.x.shape[2:]
        spans = [self.d * (k - 1) + 1 for k in (self.kh, self.kw)]
        self.ph, self.pw = (
            (side + 2 * self.p - span) // self.s + 1
            for side, span in zip((self.h, self.width), spans, strict=True)
        )
        # what the faults make of the steps
        step = 1 if "stride_forgotten" in f else self.s
        self.rate = 1 if "dilation_forgotten" in f else self.d
        if "stride_for_dilation" in f:
            step, self.rate = self.d, self.s
        self.steps = steps(step, f)
        self.tall, self.wide = unskipped(self.ph, self.pw, f)

    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Each side of the image with that of the kernel."""
        return (self.h, self.kh), (self.width, self.kw)

    def window(self, u: int, v: int) -> tuple[Any, ...]:
        """The slices of the elements at offset (u, v) of all windows of a padded image."""
        rows, cols = self.tall, self.wide
        top, left = u * self.rate, v * self.rate
        down, across = self.steps
        return (
            slice(None),
            slice(None),
            slice(top, top + (rows - 1) * down + 1 if rows > 0 else top, down),
            slice(left, left + (cols - 1) * across + 1 if cols > 0 else left, across),
        )

    def padded(self, f: Faults) -> Array:
        """The image with its padding, with room for windows that a fault moves."""
        p = self.p
        before, after = (0, 2 * p) if "padding_one_side" in f else (p, p)
        more = max(self.rate - self.d, 0) * max(self.kh, self.kw)
        more += max(max(self.steps) - self.s, 0) * max(self.ph, self.pw)
        pads = ((0, 0), (0, 0), (before, after + more), (before, after + more))
        return np.pad(self.x, pads)


def steps(stride: int, f: Faults) -> tuple[int, int]:
    """By how much the windows move down and across, with the faults."""
    down = 1 if "stride_forgotten_rows" in f else stride
    return down, 1 if "stride_forgotten_columns" in f else stride


def unskipped(rows: int, columns: int, f: Faults) -> tuple[int, int]:
    """How many rows and columns of windows a loop with the faults visits."""
    short = "last_window_skipped" in f
    tall = rows - (short or "last_row_skipped" in f)
    return tall, columns - (short or "last_column_skipped" in f)


def flipped(w: Array, f: Faults) -> Array | None:
    """The kernel as the faults read it; the last two axes are its rows and columns."""
    if "kernel_flipped" in f:
        w = w[..., ::-1, ::-1]
    if "kernel_rows_flipped" in f:
        w = w[..., ::-1, :]
    if "kernel_columns_flipped" in f:
        w = w[..., ::-1]
    if "kernel_transposed" in f:
        if w.shape[-1] != w.shape[-2]:
            return None
        w = w.swapaxes(-1, -2)
    return w


def _per_group(parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def forward(case: Case, f: Faults) -> Array | None:
    """The output y with the faults."""
    geo = Geometry(case, f)
    kernel = flipped(geo.w, f)
    if kernel is None:
        return None
    if "channels_swapped" in f:
        o, c = kernel.shape[:2]
        if o != c:
            return None
        kernel = kernel.swapaxes(0, 1)
    xp = geo.padded(f)
    if "image_first" in f:
        xp = np.broadcast_to(xp[:1], xp.shape)
    parts = []
    for x, w in zip(np.split(xp, geo.groups, 1), np.split(kernel, geo.groups, 0), strict=True):
        if "channel_last" in f:
            x, w = x[:, -1:], w[:, -1:]
        if "channel_first" in f:
            x, w = x[:, :1], w[:, :1]
        y = np.zeros((x.shape[0], w.shape[0], geo.ph, geo.pw))
        for u, v in np.ndindex(geo.kh, geo.kw):
            seen = np.einsum("ncpq,oc->nopq", x[geo.window(u, v)], w[:, :, u, v])
            y[:, :, : geo.tall, : geo.wide] += seen
        parts.append(y)
    y = _per_group(parts, 1)
    return y if "bias_missing" in f else y + geo.b[:, None, None]


def grad_input(case: Case, f: Faults, g: Array) -> Array | None:
    """∂L/∂x with the faults."""
    geo = Geometry(case, f)
    kernel = flipped(geo.w, f)
    if kernel is None or ("channels_swapped" in f and geo.w.shape[0] != geo.w.shape[1]):
        return None
    if "channels_swapped" in f:
        kernel = kernel.swapaxes(0, 1)
    if "channels_mixed" in f:
        o, c = kernel.shape[:2]
        kernel = kernel.swapaxes(0, 1).reshape(o, c, geo.kh, geo.kw)
    if "channels_reshaped" in f:
        o, c = kernel.shape[:2]
        kernel = np.ascontiguousarray(kernel).reshape(c, o, geo.kh, geo.kw).swapaxes(0, 1)
    one = {"out_channel_last": slice(-1, None), "out_channel_first": slice(0, 1)}
    parts = []
    for gs, w in zip(np.split(g, geo.groups, 1), np.split(kernel, geo.groups, 0), strict=True):
        for fault, chosen in one.items():
            if fault in f:
                gs, w = gs[:, chosen], w[chosen]
        parts.append(_spread(geo, gs, w, f))
    dxp = _per_group(parts, 1)
    return _cropped(geo, dxp, f)


def _spread(geo: Geometry, g: Array, w: Array, f: Faults) -> Array:
    """The contributions of all windows, added up on the padded image."""
    size = [
        max(side + 2 * geo.p, (k - 1) * geo.rate + (places - 1) * step + 1)
        for side, k, places, step in zip(
            (geo.h, geo.width), (geo.kh, geo.kw), (geo.ph, geo.pw), geo.steps, strict=True
        )
    ]
    dxp = np.zeros((g.shape[0], w.shape[1], *size))
    if "overwritten_windows" in f or "overwritten_all" in f or "overwritten_reversed" in f:
        places = list(np.ndindex(geo.ph, geo.pw))
        if "overwritten_reversed" in f:
            places.reverse()
        for p, q in places:
            top, left = p * geo.steps[0], q * geo.steps[1]
            rows = slice(top, top + (geo.kh - 1) * geo.rate + 1, geo.rate)
            cols = slice(left, left + (geo.kw - 1) * geo.rate + 1, geo.rate)
            here, by = (g[:, -1:, p, q], w[-1:]) if "overwritten_all" in f else (g[:, :, p, q], w)
            dxp[:, :, rows, cols] = np.einsum("no,ocuv->ncuv", here, by)
        return dxp
    for u, v in np.ndindex(geo.kh, geo.kw):
        inside = g[:, :, : geo.tall, : geo.wide]
        sent = np.einsum("nopq,oc->ncpq", inside, w[:, :, u, v])
        if "overwritten_offsets" in f:
            dxp[geo.window(u, v)] = sent
        else:
            dxp[geo.window(u, v)] += sent
    return dxp


def _cropped(geo: Geometry, dxp: Array, f: Faults) -> Array:
    p, h, w = geo.p, geo.h, geo.width
    if "crop_missing" in f:
        return dxp
    if "crop_end" in f:
        return dxp[:, :, :h, :w]
    if "crop_start" in f:
        return dxp[:, :, 2 * p : 2 * p + h, 2 * p : 2 * p + w]
    if "crop_of_short" in f:  # stride forgotten, and the result is as small as it comes out
        rows = geo.ph - 1 + geo.kh - 2 * p
        return dxp[:, :, p : p + max(rows, 0), p : p + max(geo.pw - 1 + geo.kw - 2 * p, 0)]
    return dxp[:, :, p : p + h, p : p + w]


def grad_weight(case: Case, f: Faults, g: Array) -> Array | None:
    """∂L/∂w with the faults."""
    if "kept_batch" in f:  # one gradient an image, not added up
        return np.stack([_weight_of_one(case, f - {"kept_batch"}, g, n) for n in range(g.shape[0])])
    geo = Geometry(case, f)
    xp = geo.padded(f)
    xp, g = chosen_terms(xp, g, f)
    if "gradient_flipped" in f:
        geo, g = _reversed(geo, g)
    parts = []
    for x, gs in zip(np.split(xp, geo.groups, 1), np.split(g, geo.groups, 1), strict=True):
        dw = np.zeros((gs.shape[1], x.shape[1], geo.kh, geo.kw))
        inside = gs[:, :, : geo.tall, : geo.wide]
        for u, v in np.ndindex(geo.kh, geo.kw):
            read = x[geo.window(u, v)]
            dw[:, :, u, v] = np.einsum("nopq,ncpq->oc", inside, read)
        parts.append(dw)
    dw = flipped(_per_group(parts, 0), f)
    if dw is None:
        return None
    o, c, kh, kw = dw.shape
    if "channels_swapped" in f:
        dw = dw.swapaxes(0, 1)
    if "channels_reshaped" in f:
        dw = dw.transpose(1, 2, 3, 0).reshape(o, c, kh, kw)
    if "columns_reshaped" in f:
        dw = dw.transpose(0, 2, 3, 1).reshape(o, c, kh, kw)
    return dw


def _reversed(geo: Geometry, g: Array) -> tuple[Geometry, Array]:
    """G spread out by the stride and rotated by 180°, with windows that are one apart."""
    tall, wide = ((n - 1) * geo.s + 1 for n in (geo.ph, geo.pw))
    rest = [(side + 2 * geo.p - (k - 1) * geo.d - 1) % geo.s for side, k in geo.sides()]
    spread = np.zeros((*g.shape[:2], tall + rest[0], wide + rest[1]))
    spread[:, :, : tall : geo.s, : wide : geo.s] = g
    geo.tall, geo.wide, geo.steps = tall + rest[0], wide + rest[1], (1, 1)
    return geo, spread[:, :, ::-1, ::-1]


def _weight_of_one(case: Case, f: Faults, g: Array, n: int) -> Array:
    only = np.zeros_like(g)
    only[n] = g[n]
    made = grad_weight(case, f, only)
    assert made is not None
    return made


def chosen_terms(x: Array, g: Array, f: Faults) -> tuple[Array, Array]:
    """X and g with the terms alone that a fault keeps of the sums over images and positions."""
    g = g.copy()
    if "batch_last" in f:
        g[:-1] = 0
    if "batch_first" in f:
        g[1:] = 0
    if "position_last" in f:
        g[:, :, :-1] = 0
        g[:, :, :, :-1] = 0
    if "position_first" in f:
        g[:, :, 1:] = 0
        g[:, :, :, 1:] = 0
    if "row_last" in f:
        g[:, :, :-1] = 0
    if "column_last" in f:
        g[:, :, :, :-1] = 0
    if "image_first" in f:
        x = np.broadcast_to(x[:1], x.shape)
    return x, g


def grad_bias(case: Case, f: Faults, g: Array) -> Array | None:
    """∂L/∂b with the faults."""
    _, g = chosen_terms(case.tensors["x"], g, f)
    axes = {
        "axes_rows": (0, 1, 2),
        "axes_columns": (0, 1, 3),
        "axes_batch": (1, 2, 3),
        "axes_all": (0, 1, 2, 3),
        "kept_batch": (2, 3),
        "kept_positions": (0,),
        "kept_columns": (0, 2),
        "kept_rows": (0, 3),
    }
    summed = next((axes[fault] for fault in f if fault in axes), (0, 2, 3))
    tall, wide = unskipped(g.shape[2], g.shape[3], f)
    g = g[:, :, :tall, :wide]
    total = np.asarray(g.sum(summed))
    if "axes_all_spread" in f:
        return np.full(g.shape[1], g.sum())
    return total
