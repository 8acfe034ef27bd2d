"""Picture files, decoded with Pillow and brought to one size and number of channels."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cnnexp.data.depth import ValueRange, stored_as, to_eight_bits
from cnnexp.data.images import DataFileError

if TYPE_CHECKING:
    from PIL.Image import Image


PICTURE_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)


def seen_files(folder: Path) -> list[Path]:
    """All within ``folder``, sorted, but what is hidden, whose name, or a folder's, begins with a dot."""
    found = sorted(folder.rglob("*"))
    return [p for p in found if not any(n.startswith(".") for n in p.relative_to(folder).parts)]


def read_picture(
    file: Path,
    channels: int,
    image_size: tuple[int, int],
    value_range: ValueRange | None = None,
) -> Tensor:
    """The picture in ``file`` as (channels, H, W) uint8.

    It is turned as its EXIF tag says, transparent parts become white, and it is scaled so that it covers
    H × W; what exceeds H × W is cut off, equally at two opposite sides.

    Args:
        file: A file in any format that Pillow reads; of an animation, the first picture is taken.
        channels: 1 for grey, 3 for red, green, blue.
        image_size: (H, W), each ≥ 1.
        value_range: As for :func:`open_picture`.

    Raises:
        DataFileError: As for :func:`open_picture`.
    """
    from PIL import Image, ImageOps

    if channels not in (1, 3):
        raise DataFileError(f"{file}: a picture has 1 or 3 channels, and {channels} are asked for")
    picture = open_picture(file, value_range).convert("L" if channels == 1 else "RGB")
    height, width = image_size
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    pixels = np.array(fitted, dtype=np.uint8).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def open_picture(file: Path, value_range: ValueRange | None = None) -> Image:
    """The picture in ``file``, upright, as grey (mode ``L``) or colour (``RGB``) without transparency.

    Args:
        file: A file in any format that Pillow reads; of an animation or several pages, the first is taken.
        value_range: Which numbers are black and white in pictures of more than 8 bits per channel; None
            for what their format says. With 8 bits they are always 0 and 255.

    Raises:
        DataFileError: The file cannot be read, is not a picture, is truncated or too large; or it has more
            than 8 bits per channel and nothing says what its numbers mean, see ``cnnexp.data.depth``.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                stored = stored_as(opened)
                opened.load()
                picture = ImageOps.exif_transpose(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataFileError(f"{file}: too large a picture: {error}") from error
    except Exception as error:  # the exceptions that Pillow's formats raise have no common base
        raise DataFileError(f"{file}: not a picture that can be read: {_reason(error)}") from error
    if stored is not None:
        picture = to_eight_bits(file, picture, stored, value_range)
    try:
        if picture.has_transparency_data:
            coloured = picture.convert("RGBA")
            white = Image.new("RGBA", coloured.size, "white")
            picture = Image.alpha_composite(white, coloured)
        return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
    except Exception as error:
        raise DataFileError(
            f"{file}: its colours are of the kind {picture.mode}, which is not told as red, green and "
            f"blue; save it as RGB"
        ) from error


def verify_picture(file: Path, content: bytes, value_range: ValueRange | None = None) -> None:
    """Check that ``content``, that of ``file``, begins as a picture, and that a PNG's checksums are right.

    A picture of more than 8 bits per channel is decoded as well, because the meaning of its numbers must be
    known.

    Raises:
        DataFileError: One of these checks fails, see :func:`open_picture`.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            stored = stored_as(opened)
            opened.verify()
    except Exception as error:  # the exceptions that Pillow's formats raise have no common base
        raise DataFileError(f"{file}: not a picture that can be read: {_reason(error)}") from error
    if stored is not None:
        open_picture(file, value_range)


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "no known format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
