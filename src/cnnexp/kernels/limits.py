"""What the one byte of code a pooled element can tell apart, on any device."""

from __future__ import annotations

import functools
import math

import torch

from cnnexp.geometry.windows import WindowGeometry

_WINNERS = 254  # a byte's values, less the one of an element that the ReLU stopped
_BITS = 8  # of average-pooling: one for each element of the window


def pool_refusal(pool: WindowGeometry, average: bool) -> str | None:
    """Why no kernel takes such a pooling, in words; None if they do."""
    # a graph may leave sizes open
    if torch.compiler.is_compiling() or set(map(type, pool.input_size)) != {int}:
        return _refusal(pool, average)
    return _kept_refusal(pool, average)


def _refusal(pool: WindowGeometry, average: bool) -> str | None:
    most = _BITS if average else _WINNERS
    if math.prod(pool.kernel_size) > most:
        return f"at most {most} elements a window, not {math.prod(pool.kernel_size)}"
    if not average and pool.blind_windows():
        return "no max-pooling with windows that read nothing but padding"
    return None


_kept_refusal = functools.lru_cache(maxsize=256)(_refusal)  # each kernel of each step asks
