"""The classes that a network predicts for picture files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnnexp.config.errors import ConfigError
from cnnexp.data import (
    PICTURE_ENDINGS,
    DataFileError,
    ValueRange,
    checked_range,
    read_picture,
    seen_files,
)
from cnnexp.inference.handwriting import read_character
from cnnexp.inference.network import TrainedNetwork

_HANDWRITTEN = ("mnist", "digits", "emnist", "kmnist", "qmnist")
# whose sets have the name of a folder or file, which may be any
_NAMED_BY_USERS = ("load_image_folder", "load_arrays", "load_csv")
_MOST_AT_ONCE = 64  # at most this many pictures form a batch
_MOST_PIXELS = 1 << 24  # at most this many values form a batch of more than one picture


@dataclass(frozen=True)
class Prediction:
    """The prediction for one picture.

    Attributes:
        file: The picture.
        top: The likeliest classes and their probabilities, the likeliest first; empty if reading failed.
        error: Why the picture could not be read; empty if it could.
    """

    file: Path
    top: Sequence[tuple[str, float]] = ()
    error: str = ""


def picture_files(places: Sequence[Path]) -> Iterator[Path]:
    """The files among ``places``, and the pictures inside the folders among them, sorted by name."""
    for place in places:
        if not place.is_dir():
            yield place
            continue
        inside = [f for f in seen_files(place) if f.suffix.lower() in PICTURE_ENDINGS]
        if not inside:
            yield place  # reading it gives the error that there is no picture
        yield from inside


def is_of_characters(trained: TrainedNetwork) -> bool:
    """Whether the network was trained on single characters, light on dark."""
    loader = str((trained.config.get("data") or {}).get("_target_", "")).rpartition(".")[2]
    named = trained.dataset.partition("-")[0] in _HANDWRITTEN and loader not in _NAMED_BY_USERS
    return trained.shape[0] == 1 and named


@torch.inference_mode()
def predict(
    trained: TrainedNetwork,
    files: Sequence[Path],
    *,
    top: int = 3,
    characters: bool | None = None,
    value_range: ValueRange | None = None,
) -> Iterator[Prediction]:
    """The prediction of ``trained`` for each of ``files``, in their order.

    Args:
        trained: The network.
        files: Pictures of any size and colour.
        top: How many classes to name, ≥ 1.
        characters: True to find the one character in each picture, dark on light or light on dark, and
            bring it to the form of the training images; False to scale the whole picture; None to decide
            by the data set.
        value_range: (black, white) in pictures of more than 8 bits per channel, see :func:`stated_range`.
    """
    size = max(1, min(_MOST_AT_ONCE, _MOST_PIXELS // math.prod(trained.shape)))
    for start in range(0, len(files), size):
        part = [
            _read(trained, file, characters, value_range) for file in files[start : start + size]
        ]
        pixels = [p for p in part if isinstance(p, Tensor)]
        rows: Iterator[Tensor] = iter(())
        if pixels:
            images = torch.stack(pixels).to(trained.classifier.mean.device).float() / 255
            rows = iter(trained.classifier(images).float().softmax(1).cpu())
        for file, read in zip(files[start : start + size], part, strict=True):
            if isinstance(read, Tensor):
                best = next(rows).topk(min(top, len(trained.classes)))
                names = [trained.classes[i] for i in best.indices.tolist()]
                pairs = zip(names, best.values.tolist(), strict=True)
                yield Prediction(file, [(name, float(value)) for name, value in pairs])
            else:
                yield Prediction(file, error=read)


def read_for(
    trained: TrainedNetwork,
    file: Path,
    characters: bool | None = None,
    value_range: ValueRange | None = None,
) -> Tensor:
    """The picture in ``file`` as ``trained`` takes it: (C, H, W) uint8; arguments as of :func:`predict`.

    Raises:
        DataFileError: The file cannot be read, nothing says what its numbers mean, or nothing is drawn.
    """
    channels, height, width = trained.shape
    value_range = value_range or stated_range(trained)
    if is_of_characters(trained) if characters is None else characters:
        return read_character(file, (height, width), value_range).expand(channels, -1, -1)
    return read_picture(file, channels, (height, width), value_range)


def stated_range(trained: TrainedNetwork, text: str = "") -> ValueRange | None:
    """The (black, white) of pictures of more than 8 bits per channel, see ``open_picture``; None if unstated.

    Args:
        trained: The network; the range of its own data is used where ``text`` is empty.
        text: The user's text, for example ``"[0,1]"``.

    Raises:
        ConfigError: The text or the config's value is not a range.
    """
    data = trained.config.get("data")
    value = data.get("value_range") if isinstance(data, Mapping) else None
    if text:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
    try:
        return checked_range(value)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _read(
    trained: TrainedNetwork, file: Path, characters: bool | None, value_range: ValueRange | None
) -> Tensor | str:
    if file.is_dir():
        return f"{file}: there is no picture in this folder"
    if not file.exists():
        return f"{file}: there is no such file"
    try:
        return read_for(trained, file, characters, value_range)
    except DataFileError as error:
        return str(error)
