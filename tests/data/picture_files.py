"""Small folders of real pictures, in several formats and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ENDINGS = (".png", ".jpg", ".bmp", ".webp")
COLOURS = {"blue": (20, 40, 220), "red": (220, 30, 20)}


def write_pictures(folder: Path, count: int = 5) -> None:
    """``count`` pictures a class in ``folder``/<class>/: noise about the colour of its name."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            size = (20 + 7 * number, 33, 3)
            pixels = np.clip(np.array(colour) + random.normal(0, 10, size), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{number}{ENDINGS[number % 4]}")
