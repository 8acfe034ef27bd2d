"""Small folders of real pictures, in several formats and sizes."""

from __future__ import annotations

import struct
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


def write_tiff(
    file: Path, values: np.ndarray, *, bits: int | None = None, white_is_zero: bool = False
) -> None:
    """``values`` (H, W) or (H, W, 3) as a TIFF of the numbers' own type, little-endian, not compressed.

    ``bits=12`` packs unsigned integers of fewer than 16 bits; Pillow writes neither these, nor
    unsigned 32-bit integers, nor signed 16-bit ones, nor colours of 16 bits.
    """
    height, width, *rest = values.shape
    channels = rest[0] if rest else 1
    depth = bits or 8 * values.dtype.itemsize
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint32)
        packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").tobytes()
        body = b"".join(packed[i + 1 : i + 4] for i in range(0, len(packed), 4))
    else:
        body = values.astype(values.dtype.newbyteorder("<")).tobytes()
    photometric = 2 if channels == 3 else 0 if white_is_zero else 1
    tags = [(256, 4, width), (257, 4, height), (258, 3, depth), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 0), (277, 3, channels), (278, 4, height), (279, 4, len(body)), (339, 3, kind)]
    after = 8 + 2 + 12 * len(tags) + 4
    extra = (
        b"" if channels == 1 else struct.pack("<3H", *3 * [depth]) + struct.pack("<3H", *3 * [kind])
    )
    where = {273: (1, after + len(extra)), 258: (channels, after), 339: (channels, after + 6)}
    entries = b""
    for tag, code, value in tags:
        count, place = where.get(tag, (1, value))
        inline = value if count == 1 and tag != 273 else place
        entries += struct.pack("<HHII", tag, code, count, inline)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    file.write_bytes(head + extra + body)
