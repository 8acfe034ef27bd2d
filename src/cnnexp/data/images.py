"""Labelled sets of images, in memory or on disk, and the errors of loading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

_PART = 8192  # images that are looked at at a time, so that a large set needs no more memory for it


class DataFileError(RuntimeError):
    """A data file is corrupt, truncated or not what its name says."""


class DataUnavailableError(RuntimeError):
    """A data set is not on disk and cannot be downloaded."""


class Samples(Protocol):
    """Images and their classes, wherever they are stored: the interface of a part of an
    :class:`ImageSet`.

    Those that have an attribute ``at_hand`` that is True are read without work, as from memory: the diagnosis
    of a training then looks at all of them, and several small batches are asked for at once.
    """

    @property
    def labels(self) -> Tensor:
        """The class of each image: (N,) int64, 0 to classes − 1."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of each image."""
        ...

    def __len__(self) -> int:
        """The number of images, N."""
        ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) uint8 and labels (B,) int64 for (B,) indices, in that order."""
        ...

    def select(self, indices: Tensor, labels: Tensor | None = None) -> Samples:
        """The samples at ``indices``, in that order; ``labels`` (B,), if given, replace their
        labels.
        """
        ...


@dataclass(frozen=True)
class LabelledImages:
    """Images held in memory, and their classes.

    Attributes:
        images: (N, C, H, W) uint8, 0 to 255.
        labels: (N,) int64, 0 to classes − 1.
    """

    images: Tensor
    labels: Tensor
    at_hand: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.images.size(0) != self.labels.size(0):
            raise DataFileError(
                f"{self.images.size(0)} images, but {self.labels.size(0)} labels; fetch the files again"
            )

    def __len__(self) -> int:
        return self.images.size(0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of each image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) and labels (B,) for (B,) indices, by one gather."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def select(self, indices: Tensor, labels: Tensor | None = None) -> Selection:
        """The images at ``indices``, in that order; ``labels`` (B,), if given, replace their
        labels.
        """
        return Selection.of(self, indices, labels)


@dataclass(frozen=True)
class Selection:
    """Some of other samples, in an order of their own. They share the images: nothing is copied.

    What they hold themselves is 8 bytes an image for ``rows`` and, of classes, 8 for its label.

    Attributes:
        whole: Where the images are.
        rows: (N,) int64, which of them these are.
        labels: (N,) int64, or (N, K); see ``ImageSet.targets``.
    """

    whole: Samples
    rows: Tensor
    labels: Tensor

    @property
    def at_hand(self) -> bool:
        """Whether the images are read without work."""
        return is_at_hand(self.whole)

    @classmethod
    def of(cls, whole: Samples, rows: Tensor, labels: Tensor | None) -> Selection:
        """The images of ``whole`` at ``rows`` (N,), with ``labels`` or, with None, their own."""
        return cls(whole, rows, whole.labels[rows] if labels is None else labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of each image."""
        return self.whole.shape

    def __len__(self) -> int:
        return self.rows.size(0)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) and labels (B,) for (B,) indices, as ``whole`` gathers them."""
        images, _ = self.whole.batch(self.rows.index_select(0, indices))
        return images, self.labels.index_select(0, indices)

    def select(self, indices: Tensor, labels: Tensor | None = None) -> Selection:
        """The images at ``indices``, in that order; ``labels`` (B,), if given, replace their
        labels.
        """
        return Selection(
            self.whole, self.rows[indices], self.labels[indices] if labels is None else labels
        )


def is_at_hand(samples: Samples) -> bool:
    """Whether the images are read without work, see :class:`Samples`."""
    return getattr(samples, "at_hand", False)


@dataclass(frozen=True)
class ImageSet:
    """One data set with its official split.

    Attributes:
        name: The name that messages, run folders and reports use, for example ``"mnist"``.
        train: The official training images; validation images are taken from these.
        test: The official test images.
        classes: The name of each class.
        mean, std: Mean and standard deviation of the training pixels scaled to 0…1, one number per channel.
        checksum: An md5 of the data, or of its files' md5s, which identifies it.
        notice: What every run on this set must say first; empty if nothing.
        stands_in_for: How many training images the set has that this one replaces; 0 if it replaces none.
        val: The validation images of a set that brings its own; None to take them from ``train``.
        targets: What the labels are: ``classes`` (N,) int64, one an image; ``labels`` (N, K) of 0 and 1,
            several an image; ``numbers`` (N, K). ``classes`` then holds the names of the K.
    """

    name: str
    train: Samples
    test: Samples
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str
    notice: str = ""
    stands_in_for: int = 0
    val: Samples | None = None
    targets: str = "classes"

    @property
    def channels(self) -> int:
        """The number of channels C of the images."""
        return self.train.shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """The height and width (H, W) of the images."""
        return self.train.shape[1:]

    def keep_classes(self, names: Sequence[str]) -> ImageSet:
        """The set reduced to these classes, which get the labels 0, 1, … in the order of ``names``.

        Mean and standard deviation remain those of the whole set.

        Raises:
            ValueError: A name is unknown or repeated, or there are fewer than two.
        """
        if self.targets != "classes":
            raise ValueError(
                f"classes=[{', '.join(names)}]: {self.name} has {self.targets}, not one class an image"
            )
        unknown = [name for name in names if name not in self.classes]
        if unknown or len(set(names)) != len(names) or len(names) < 2:
            raise ValueError(
                f"classes=[{', '.join(names)}]: must be two or more of {self.name}'s, each once: "
                f"{', '.join(self.classes)}"
            )
        chosen = torch.tensor([self.classes.index(name) for name in names])
        new_label = torch.full((len(self.classes),), -1).index_copy(
            0, chosen, torch.arange(len(chosen))
        )
        parts: list[Samples] = []
        for part in (self.train, self.test, *(() if self.val is None else (self.val,))):
            labels = new_label[part.labels]
            (kept,) = (labels >= 0).nonzero(as_tuple=True)
            parts.append(part.select(kept, labels[kept]))
        share = len(parts[0]) / len(self.train)
        return replace(
            self,
            train=parts[0],
            test=parts[1],
            classes=tuple(names),
            stands_in_for=round(self.stands_in_for * share),
            val=None if self.val is None else parts[2],
        )


def image_set(name: str, train: Samples, test: Samples, classes: tuple[str, ...]) -> ImageSet:
    """An :class:`ImageSet` with mean, standard deviation and checksum computed from the tensors."""
    digest = hashlib.md5()
    for part in (train, test):
        for images in parts_of(part):
            digest.update(images.contiguous().numpy().data.cast("B"))
        digest.update(part.labels.numpy().tobytes())
    mean, std = pixel_statistics(parts_of(train))
    return ImageSet(name, train, test, classes, mean, std, digest.hexdigest())


def parts_of(samples: Samples) -> Iterator[Tensor]:
    """All images of ``samples`` in order, (B, C, H, W) uint8, some thousands at a time."""
    for indices in torch.arange(len(samples)).split(_PART):
        yield samples.batch(indices)[0]


def pixel_statistics(parts: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images (N, C, H, W) uint8, scaled to 0…1.

    Both are rounded to four digits; the standard deviation of a constant channel is given as 1. How the
    images are cut into parts changes nothing: what is summed are counts.

    Args:
        parts: The images, in one tensor or several; one at least.
    """
    counts = torch.stack([_values(images) for images in parts]).sum(0).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum(1) / counts.sum(1)
    std = ((counts * values.square()).sum(1) / counts.sum(1) - mean.square()).clamp(min=0).sqrt()
    return (
        tuple(round(v, 4) for v in mean.tolist()),
        tuple(round(v, 4) or 1.0 for v in std.tolist()),
    )


def _values(images: Tensor) -> Tensor:
    """How often each channel has each value: (C, 256) int64."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(c.int(), minlength=256) for c in channels])
