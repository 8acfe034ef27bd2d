"""Image sets as tensors, their splits and batches."""

from cnnexp.data.batches import BatchOrder, GatheredBatches, batch_loader
from cnnexp.data.digits import load_digits
from cnnexp.data.images import (
    DataFileError,
    DataUnavailableError,
    ImageSet,
    LabelledImages,
)
from cnnexp.data.mnist import load_mnist, load_mnist_or_digits
from cnnexp.data.module import ImageDataModule

__all__ = [
    "BatchOrder",
    "DataFileError",
    "DataUnavailableError",
    "GatheredBatches",
    "ImageDataModule",
    "ImageSet",
    "LabelledImages",
    "batch_loader",
    "load_digits",
    "load_mnist",
    "load_mnist_or_digits",
]
