"""Arrays in files: images of any size and number of channels, with classes, labels or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnnexp.data.batches import seeded_generator
from cnnexp.data.images import (
    DataFileError,
    DataUnavailableError,
    ImageSet,
    LabelledImages,
    Samples,
    parts_of,
    pixel_statistics,
)
from cnnexp.data.mapped import MappedImages, checksum_of, mapped_arrays
from cnnexp.suggestions import did_you_mean

_TEST_SHARE = 0.2  # of the images, where the file has no test images of its own
_NAMES = ("images", "labels", "test_images", "test_labels", "val_images", "val_labels")


def load_arrays(
    file: str | Path, names: Sequence[str] | None = None, targets: str | None = None
) -> ImageSet:
    """The images and labels in an .npz or .safetensors file, or in a folder of .npy files.

    The images of a folder stay in their files, which are mapped into memory, so that they may be more than
    the memory holds (see :class:`~cnnexp.data.mapped.MappedImages`); everything else is the same, to the bit.

    The file holds ``images``, uint8 (0…255) or float (0…1, kept with 8 bits), (N, H, W), (N, C, H, W) or
    (N, H, W, C), where C is 1, 3 or 4 of a last axis; and ``labels``: whole numbers (N,) for classes, 0 and 1
    (N, K) in whole numbers or booleans for several labels an image, floats (N,) or (N, K) for numbers. It
    may also hold ``test_images`` and ``test_labels``, ``val_images`` and ``val_labels``; without the
    former, a fifth of the images, always the same, is for the test. In a folder each is a file,
    ``images.npy`` and so on, and images are uint8.

    Args:
        file: The file or the folder; nothing in it is run.
        names: Of the classes, the labels or the numbers; None for 0, 1, …
        targets: ``classes``, ``labels`` or ``numbers`` where the arrays' types do not say it; None for what
            these say.

    Raises:
        DataUnavailableError: There is no such file.
        DataFileError: It is corrupt, or an array is missing or of a shape or type that fits none.
        ValueError: ``names`` or ``targets`` does not fit.
    """
    place = Path(file).expanduser()
    if not place.exists():
        raise DataUnavailableError(
            f"there is no file {place}; set data.file to an .npz or .safetensors file, or to a folder of "
            f".npy files"
        )
    arrays = mapped_arrays(place) if place.is_dir() else _read(place)
    for name in arrays:
        if name not in _NAMES:
            raise DataFileError(
                f"{place}: holds '{name}'; known: {', '.join(_NAMES)}.{did_you_mean(name, _NAMES)}"
            )
    for name in ("images", "labels"):
        if name not in arrays:
            raise DataFileError(f"{place}: holds no '{name}', but {', '.join(arrays) or 'nothing'}")
    kind = _kind(place, arrays["labels"], targets)
    whole = _part(place, arrays, "", kind)
    if "test_images" in arrays:
        train, test = whole, _part(place, arrays, "test_", kind)
    else:
        train, test = _cut(place, whole)
    val = _part(place, arrays, "val_", kind) if "val_images" in arrays else None
    parts: list[Samples] = [train, test, *([] if val is None else [val])]
    if len({part.shape for part in parts}) > 1:
        raise DataFileError(
            f"{place}: the parts have images of several shapes, {[p.shape for p in parts]}"
        )
    classes = _named(place, parts, kind, names)
    mean, std = pixel_statistics(parts_of(train))
    digest = checksum_of(place)
    return ImageSet(place.stem, train, test, classes, mean, std, digest, val=val, targets=kind)


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        if file.suffix == ".safetensors":
            try:
                from safetensors.numpy import load_file
            except ImportError as error:
                raise DataFileError(
                    f"{file}: needs the package safetensors: pip install 'cnnexp[export]'"
                ) from error
            return load_file(file)
        with np.load(file, allow_pickle=False) as found:
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise DataFileError(f"{file}: is one array, not an .npz file of several")
            return {name: found[name] for name in found.files}
    except DataFileError:
        raise
    except Exception as error:  # of zip, numpy or safetensors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataFileError(
            f"{file}: is no .npz or .safetensors file that can be read: {reason}"
        ) from error


def _kind(file: Path, labels: np.ndarray, targets: str | None) -> str:
    """What the labels are, by their type and shape, or as ``targets`` says."""
    if targets not in (None, "classes", "labels", "numbers"):
        raise ValueError(f"targets={targets}: must be classes, labels or numbers, or null")
    if labels.dtype.kind not in "buif" or labels.ndim not in (1, 2):
        raise DataFileError(
            f"{file}: labels are {labels.dtype} {labels.shape}, not numbers (N,) or (N, K)"
        )
    found = "numbers" if labels.dtype.kind == "f" else "classes" if labels.ndim == 1 else "labels"
    kind = targets or found
    if kind == "classes" and (labels.ndim != 1 or labels.dtype.kind not in "ui"):
        raise ValueError(
            f"targets=classes: the labels are {labels.dtype} {labels.shape}, not whole numbers (N,)"
        )
    return kind


def _part(file: Path, arrays: Mapping[str, np.ndarray], prefix: str, kind: str) -> Samples:
    images, key = _images(file, f"{prefix}images", arrays[f"{prefix}images"]), f"{prefix}labels"
    if key not in arrays:
        raise DataFileError(f"{file}: holds {prefix}images, but no {key}")
    labels = arrays[key]
    if len(labels) != len(images) or not len(images):
        raise DataFileError(f"{file}: {len(images)} {prefix}images, but {len(labels)} {key}")
    _check_labels(file, key, labels, kind)
    if kind == "classes":
        rows = torch.from_numpy(labels.astype(np.int64))
    else:
        rows = torch.from_numpy(labels.astype(np.float32)).reshape(len(labels), -1)
        if not bool(rows.isfinite().all()):
            raise DataFileError(f"{file}: {key} holds values that are infinite or NaN")
    if file.is_dir():
        return MappedImages(images, rows, file / f"{prefix}images.npy")
    return LabelledImages(images, rows)


def _check_labels(file: Path, key: str, labels: np.ndarray, kind: str) -> None:
    """Make sure that the labels of a part are of the kind that those of the training are."""
    if kind == "classes" and (labels.ndim != 1 or labels.dtype.kind not in "ui"):
        raise DataFileError(
            f"{file}: {key} are {labels.dtype} {labels.shape}, not classes, whole numbers (N,)"
        )
    if kind == "labels" and not np.isin(labels, (0, 1)).all():
        raise DataFileError(
            f"{file}: {key} (N, K) of whole numbers must be 0 or 1; targets=numbers takes any"
        )


def _images(file: Path, name: str, images: np.ndarray) -> Tensor:
    """(N, C, H, W) uint8."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[-1] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise DataFileError(
            f"{file}: {name} has the shape {images.shape}, not (N, H, W), (N, C, H, W) or (N, H, W, C)"
        )
    if isinstance(images, np.memmap):  # no copy of it would fit
        return torch.from_numpy(_bytes_alone(file, name, images))
    if images.dtype.kind == "f":
        if images.size and not (images.min() >= 0 and images.max() <= 1):  # NaN is refused, too
            raise DataFileError(
                f"{file}: {name} of {images.dtype} must lie in 0…1, but go from {images.min():.4g} to "
                f"{images.max():.4g}; divide them, or store uint8"
            )
        images = np.rint(images * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise DataFileError(
            f"{file}: {name} is {images.dtype}; known: uint8 in 0…255, floats in 0…1"
        )
    return torch.from_numpy(np.ascontiguousarray(images))


def _bytes_alone(file: Path, name: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise DataFileError(
            f"{file}: {name}.npy is {images.dtype}; a file that is mapped into memory must be uint8, 0…255"
        )
    return images


def _cut(file: Path, whole: Samples) -> tuple[Samples, Samples]:
    """(training, test), without an order that the file may have."""
    if len(whole) < 2:
        raise DataFileError(f"{file}: holds one image; training and test need one each at least")
    order = torch.randperm(len(whole), generator=seeded_generator(0))
    count = max(1, round(_TEST_SHARE * len(whole)))
    return whole.select(order[count:].sort().values), whole.select(order[:count].sort().values)


def _named(
    file: Path, parts: Sequence[Samples], kind: str, names: Sequence[str] | None
) -> tuple[str, ...]:
    if kind == "classes":
        least = min(int(part.labels.min()) for part in parts)
        count = 1 + max(int(part.labels.max()) for part in parts)
        if least < 0 or count < 2:
            raise DataFileError(
                f"{file}: classes go from {least} to {count - 1}; they must begin with 0, two at least"
            )
        count = max(count, len(names or ()))
    else:
        widths = {part.labels.size(1) for part in parts}
        if len(widths) > 1 or 0 in widths:
            raise DataFileError(
                f"{file}: the parts have labels of several widths, {sorted(widths)}"
            )
        (count,) = widths
    named = tuple(map(str, range(count) if names is None else names))  # [9,8] are numbers to YAML
    if len(named) != count:
        raise ValueError(f"names=[{', '.join(named)}]: must be {count}, as many as the labels have")
    return named
