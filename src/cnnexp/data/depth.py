"""Pictures of more than 8 bits per channel, and the numbers that mean black and white in them.

With 8 bits per channel, 0 is black and 255 is white. With 16 bits the formats' own rules say 0 and
65535; but software also stores 8-bit values in 16 bits, and for 32-bit integers and floats no rule says
what the numbers mean. A wrong guess makes every picture black, or white; so where no rule applies, the
user has to state the range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnexp.data.images import DataFileError

if TYPE_CHECKING:
    from PIL.Image import Image


ValueRange = tuple[float, float]

_SIXTEEN = 65535.0
_USUAL = ((0, 1), (0, 255), (0, 4095), (0, 65535))
_SCALED = ("PNG", "PPM")  # their readers scale to 16 bits what Pillow holds in 32
_UNSIGNED = 1  # TIFF's SampleFormat
_ROUNDING = 1e-6  # a float may lie outside the range by this share of it


@dataclass(frozen=True)
class Stored:
    """The storage of a picture's channels.

    Attributes:
        kind: The kind of storage in words, for messages.
        bounds: The numbers of black and white by the format's own rules; None where it has none.
        reduced: Whether Pillow returns the upper 8 bits only.
        unsigned: Whether 32-bit integers count from 0.
    """

    kind: str
    bounds: ValueRange | None = None
    reduced: bool = False
    unsigned: bool = False


def checked_range(value: object) -> ValueRange | None:
    """Return ``value`` as (black, white); None stays None.

    Raises:
        ValueError: ``value`` is not two different, finite numbers.
    """
    if value is None:
        return None
    given = value if isinstance(value, Sequence) else ()
    numbers = [v for v in given if isinstance(v, (int, float)) and not isinstance(v, bool)]
    fine = len(given) == len(numbers) == 2 and all(map(math.isfinite, numbers))
    if not fine or numbers[0] == numbers[1]:
        raise ValueError(
            f"value_range={value}: must be two different numbers, what is black and what is white, for "
            f"example [0,1]"
        )
    return float(numbers[0]), float(numbers[1])


def stored_as(opened: Image) -> Stored | None:
    """The storage of an opened, not yet loaded picture; None if it has 8 bits per channel or fewer."""
    tags: Any = getattr(opened, "tag_v2", {})
    tiles: Any = getattr(opened, "tile", [])
    raw = tiles[0][3] if tiles else ""
    raw = str(raw[0] if isinstance(raw, tuple) and raw else raw)
    whitest = _SIXTEEN
    if opened.mode.startswith("I;16"):
        if ";12" in raw:
            whitest = 4095.0
        inverted = tags.get(262) == 0  # TIFF: white is zero
        bits = "12-bit" if whitest < _SIXTEEN else "16-bit"
        return Stored(f"{bits} integers", (whitest, 0.0) if inverted else (0.0, whitest))
    if opened.mode == "I":
        if opened.format in _SCALED:
            return Stored("16-bit integers", (0.0, whitest))
        unsigned = bool(tags) and tags.get(339, (_UNSIGNED,))[0] == _UNSIGNED
        bits = "16-bit" if ";16" in raw else "32-bit"
        return Stored(f"{'' if unsigned else 'signed '}{bits} integers", unsigned=unsigned)
    if opened.mode == "F":
        return Stored("floating-point numbers")
    if ";16" in raw:
        return Stored("16-bit integers", (0.0, whitest), reduced=True)
    return None


def to_eight_bits(
    file: Path, picture: Image, stored: Stored, stated: ValueRange | None = None
) -> Image:
    """Return ``picture`` with 8 bits per channel: in mode ``L``, or unchanged where Pillow has reduced it.

    Args:
        file: The picture's file, for messages.
        picture: The loaded picture.
        stored: How it was stored, see :func:`stored_as`.
        stated: (black, white) where the user states them.

    Raises:
        DataFileError: Nothing says what is black and white, or a pixel lies outside the range or is not
            finite.
    """
    from PIL import Image

    if stored.reduced:
        _check_reduced(file, picture, stored, stated)
        return picture
    values = np.asarray(picture)
    if stored.unsigned and values.dtype == np.int32:
        values = values.view(np.uint32)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        kinds = "NaN" if np.isnan(values).any() else "infinite numbers"
        raise DataFileError(f"{file}: has {kinds} among its pixels; save it without them")
    black, white = stated or _by_rule(file, values, stored)
    low, high = min(black, white), max(black, white)
    slack = _ROUNDING * (high - low)
    if values.min() < low - slack or values.max() > high + slack:
        raise DataFileError(
            f"{file}: its pixels are {stored.kind} from {_spell(values.min())} to "
            f"{_spell(values.max())}, outside of value_range=[{_spell(black)},{_spell(white)}]"
        )
    shares = ((values - black) / (white - black)).clip(0, 1)
    clear = picture.info.get("transparency")
    if isinstance(clear, int):  # this grey is transparent: white, as with 8 bits
        shares[values == clear] = 1
    return Image.fromarray((255 * shares).round().astype(np.uint8))


def _by_rule(file: Path, values: NDArray[np.float64], stored: Stored) -> ValueRange:
    if stored.bounds is None or (max(stored.bounds) == _SIXTEEN and 0 < values.max() <= 255):
        raise DataFileError(_unsaid(file, stored, values.min(), values.max()))
    return stored.bounds


def _check_reduced(file: Path, picture: Image, stored: Stored, stated: ValueRange | None) -> None:
    if stated is None:
        if not np.asarray(picture).any():
            raise DataFileError(_unsaid(file, stored, 0, 255))
    elif stated != stored.bounds:
        black, white = map(_spell, stated)
        raise DataFileError(
            f"{file}: value_range=[{black},{white}] goes with grey pictures, but this one has colours of "
            f"{stored.kind}, which are read as [0,65535]; save it with 8 bits a channel"
        )


def _unsaid(file: Path, stored: Stored, low: float, high: float) -> str:
    found = f"from {_spell(low)} to {_spell(high)}" if not stored.reduced else "of at most 255"
    fits = [usual for usual in _USUAL if usual[0] <= low and high <= usual[1]]
    example = ",".join(map(_spell, fits[0] if fits else (low, high)))
    remedy = "save it with 8 bits a channel"
    if not stored.reduced:
        setting = f"value_range=[{example}] (of a data set: data.value_range)"
        remedy = f"state it, for example {setting}, or {remedy}"
    return (
        f"{file}: its pixels are {stored.kind} {found}, and nothing says which number is black and which "
        f"is white; {remedy}"
    )


def _spell(number: float) -> str:
    return f"{number:.6g}" if abs(number) < 1e6 else f"{number:.0f}"
