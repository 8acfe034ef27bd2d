"""Images as the kernels of depthwise convolution take them: ``LANES`` channels of one at a time."""
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false
# pyright: reportCallIssue=false

from __future__ import annotations

from numba import njit

from cnnexp.kernels.cpu.depthwise_pixels import (
    narrow_pixels,
    narrow_tile,
    widen_pixels,
    widen_tile,
)
from cnnexp.kernels.cpu.depthwise_tables import LANES
from cnnexp.kernels.cpu.precision import narrow, wide
from cnnexp.kernels.cpu.vector import COMPILE


@njit(**COMPILE)
def first_of(block, channels):
    """The first channel of a block."""
    return max(0, min(block * LANES, channels - LANES))


@njit(**COMPILE)
def read(image, n, block, channels, count, last, places, pixels):
    """The ``count`` pixels of image n, at ``places`` in ``pixels``; what has no place is not needed."""
    c = first_of(block, channels)
    if channels < LANES:
        for k in range(channels):
            for f in range(count):
                at = (n * count + f) * channels + k if last else (n * channels + k) * count + f
                pixels[places[f] + k] = wide(image[at])
    elif last:
        widen_pixels(image, n * count * channels + c, channels, count, places, pixels)
    elif count < LANES:
        for k in range(LANES):
            at = (n * channels + c + k) * count
            for f in range(count):
                pixels[places[f] + k] = wide(image[at + f])
    else:
        at = (n * channels + c) * count
        for f in range(0, count - LANES + 1, LANES):
            widen_tile(image, at + f, count, places, f, pixels)
        if count % LANES:
            f = count - LANES
            widen_tile(image, at + f, count, places, f, pixels)


@njit(**COMPILE)
def write(pixels, image, n, block, channels, count, last):
    """The other way; ``pixels`` lie one after another."""
    c = first_of(block, channels)
    if channels < LANES:
        for k in range(channels):
            for f in range(count):
                at = (n * count + f) * channels + k if last else (n * channels + k) * count + f
                image[at] = narrow(pixels[f * LANES + k], image)
    elif last:
        narrow_pixels(pixels, image, n * count * channels + c, channels, count)
    elif count < LANES:
        for k in range(LANES):
            at = (n * channels + c + k) * count
            for f in range(count):
                image[at + f] = narrow(pixels[f * LANES + k], image)
    else:
        at = (n * channels + c) * count
        for f in range(0, count - LANES + 1, LANES):
            narrow_tile(pixels, f * LANES, image, at + f, count)
        if count % LANES:
            f = count - LANES
            narrow_tile(pixels, f * LANES, image, at + f, count)
