"""A labelled set of images, held whole as tensors, and its errors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["DataFileError", "DataUnavailableError", "ImageSet", "LabelledImages"]


class DataFileError(RuntimeError):
    """A data file is corrupt, truncated or not what its name says."""


class DataUnavailableError(RuntimeError):
    """A data set is neither on disk nor to be downloaded."""


@dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Attributes:
        images: (N, C, H, W) uint8, 0 to 255.
        labels: (N,) int64, 0 to classes − 1.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.size(0) != self.labels.size(0):
            raise DataFileError(
                f"{self.images.size(0)} images, but {self.labels.size(0)} labels; fetch the files again"
            )

    def __len__(self) -> int:
        return self.images.size(0)

    def select(self, indices: Tensor) -> LabelledImages:
        """Those at ``indices``, in that order."""
        return LabelledImages(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class ImageSet:
    """One data set with its official split.

    Attributes:
        name: What everything written about it calls it, for example ``"mnist"``.
        train: The official training images; validation is cut from these.
        test: The official test images.
        classes: Name of each class.
        mean, std: Of the training pixels scaled to 0…1, one number a channel.
        checksum: Identifies the data: an md5 of it, or of its files' md5s.
        notice: What every run on it must say first; empty if nothing.
        stands_in_for: Training images of the set that it replaces; 0 if it is itself.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str
    notice: str = ""
    stands_in_for: int = 0

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.train.images.size(1)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.train.images.size(2), self.train.images.size(3)
