"""Pictures in files: decoded with Pillow, brought to one size and number of channels."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cnnexp.data.images import DataFileError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PICTURE_ENDINGS", "open_picture", "read_picture", "verify_picture"]

PICTURE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)


def read_picture(file: Path, channels: int, image_size: tuple[int, int]) -> Tensor:
    """The picture in ``file`` as (channels, H, W) uint8.

    It is turned as its EXIF tag says, what is transparent becomes white, and it is scaled so that
    it covers H × W; what stands out at two sides, as much at each, is cut off.

    Args:
        file: In any format that Pillow reads; of an animation the first picture.
        channels: 1 for grey, 3 for red, green, blue.
        image_size: (H, W), each ≥ 1.

    Raises:
        DataFileError: The file cannot be read, or is no picture, truncated, or too large.
    """
    from PIL import Image, ImageOps

    picture = open_picture(file).convert("L" if channels == 1 else "RGB")
    height, width = image_size
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    pixels = np.array(fitted, dtype=np.uint8).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def open_picture(file: Path) -> Image:
    """The picture in ``file``, upright, as grey (mode ``L``) or colour (``RGB``) without transparency.

    Raises:
        DataFileError: As :func:`read_picture`.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                opened.load()
                picture = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataFileError(f"{file}: not a picture that can be read: {_reason(error)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataFileError(f"{file}: too large a picture: {error}") from error
    if picture.mode.startswith("I"):  # 16 bits a pixel, which convert would cut off at 255
        values = np.asarray(picture, dtype=np.float64)
        return Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        picture = Image.alpha_composite(white, coloured)
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


def verify_picture(file: Path, content: bytes) -> None:
    """See whether ``content``, that of ``file``, begins as a picture, and a PNG's checksums are right.

    Raises:
        DataFileError: It does not, or they are not.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.verify()
    except Exception as error:  # Pillow's formats raise what they like
        raise DataFileError(f"{file}: not a picture that can be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "no known format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
