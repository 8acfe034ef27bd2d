"""Bring a picture of one character to the form of MNIST's images: light on dark, centred, of their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cnnexp.data import DataFileError, ValueRange, open_picture

Pixels = NDArray[np.floating[Any]]  # (H, W), 0…1


_BOX = 20 / 28  # the share of the picture's side that the character takes
# above this share of the strongest ink a pixel belongs to the character, not to the paper
_INK = 0.3
_FAINTEST = 0.08  # below this contrast to the paper, in 0…1, nothing is drawn


def read_character(
    file: Path, size: tuple[int, int], value_range: ValueRange | None = None
) -> Tensor:
    """The character in ``file`` as (1, H, W) uint8, light on dark.

    The colour of the picture's rim, dark or light, is taken as the paper; pixels that differ from it are
    ink. The ink's bounding box is scaled to fit 20/28 of H and W and placed so that its centre of mass is
    in the middle. A picture of exactly H × W pixels is used unchanged if its paper is dark, and as its
    negative if its paper is light.

    Args:
        file: A file in any format that Pillow reads, of any size and colour.
        size: (H, W).
        value_range: (black, white) in pictures of more than 8 bits per channel, see ``open_picture``.

    Raises:
        DataFileError: The file cannot be read, or nothing is drawn in it.

    Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits" (1998).
    """
    grey = np.asarray(open_picture(file, value_range).convert("L"), dtype=np.float32) / 255
    paper = float(np.median(_rim(grey)))
    if grey.shape == size and float(np.ptp(grey)) > _FAINTEST and abs(paper - 0.5) > 0.3:
        return _tensor(grey if paper < 0.5 else 1 - grey)
    ink = _ink(grey, paper)
    strongest = float(ink.max())
    if strongest < _FAINTEST:
        raise DataFileError(f"{file}: nothing is drawn in it")
    ink = np.clip(ink / strongest, 0, 1)
    ink[ink < _INK / 3] = 0  # remove the grain of the paper
    return _tensor(_centred(ink, size))


def _rim(grey: Pixels) -> Pixels:
    width = max(1, round(0.04 * min(grey.shape)))
    inside = np.zeros(grey.shape, dtype=bool)
    inside[width:-width, width:-width] = True
    return grey[~inside]


def _ink(grey: Pixels, paper: float) -> Pixels:
    """The darkness, or the lightness, of each pixel relative to the paper, whichever is greater in total."""
    darker, lighter = np.clip(paper - grey, 0, None), np.clip(grey - paper, 0, None)
    return darker if np.square(darker).sum() >= np.square(lighter).sum() else lighter


def _centred(ink: Pixels, size: tuple[int, int]) -> Pixels:
    rows, columns = np.nonzero(ink > _INK)
    box = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = min(_BOX * size[0] / box.shape[0], _BOX * size[1] / box.shape[1])
    height, width = (max(1, round(scale * n)) for n in box.shape)
    # shrinking averages over all pixels that one covers, so that thin strokes do not vanish
    small = np.asarray(
        Image.fromarray(box).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32
    ).clip(0, 1)
    small = small / max(float(small.max()), 1e-6)
    mass = float(small.sum())
    centre = (
        float((small.sum(1) * (np.arange(height) + 0.5)).sum()) / mass,
        float((small.sum(0) * (np.arange(width) + 0.5)).sum()) / mass,
    )
    top, left = (
        min(max(round(whole / 2 - middle), 0), whole - part)
        for whole, middle, part in zip(size, centre, (height, width), strict=True)
    )
    page = np.zeros(size, dtype=np.float32)
    page[top : top + height, left : left + width] = small
    return page


def _tensor(grey: Pixels) -> Tensor:
    return torch.from_numpy((grey * 255).round().astype(np.uint8)).unsqueeze(0)
