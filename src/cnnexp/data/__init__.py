"""Image sets as tensors or picture files, their splits and batches."""

from cnnexp.data.arrays import load_arrays
from cnnexp.data.batches import (
    BatchOrder,
    GatheredBatches,
    batch_loader,
    loader_of,
    seeded_generator,
)
from cnnexp.data.depth import ValueRange, checked_range
from cnnexp.data.digits import load_digits
from cnnexp.data.draws import BatchSlice, Draws
from cnnexp.data.given_images import as_image_set, given_images, offered_images
from cnnexp.data.image_folder import PictureFiles, load_image_folder
from cnnexp.data.images import (
    DataFileError,
    DataUnavailableError,
    ImageSet,
    LabelledImages,
    Samples,
    Selection,
    image_set,
    is_at_hand,
    parts_of,
)
from cnnexp.data.mapped import MappedImages
from cnnexp.data.mnist import load_mnist, load_mnist_or_digits
from cnnexp.data.module import SAMPLING, ImageDataModule
from cnnexp.data.picture_files import PICTURE_ENDINGS, open_picture, read_picture, seen_files
from cnnexp.data.picture_table import load_csv
from cnnexp.data.poisson import PoissonBatches
from cnnexp.data.synthetic import load_synthetic
from cnnexp.data.torchvision_sets import TORCHVISION_SETS, load_torchvision_set

__all__ = [
    "PICTURE_ENDINGS",
    "SAMPLING",
    "TORCHVISION_SETS",
    "BatchOrder",
    "BatchSlice",
    "DataFileError",
    "DataUnavailableError",
    "Draws",
    "GatheredBatches",
    "ImageDataModule",
    "ImageSet",
    "LabelledImages",
    "MappedImages",
    "PictureFiles",
    "PoissonBatches",
    "Samples",
    "Selection",
    "ValueRange",
    "as_image_set",
    "batch_loader",
    "checked_range",
    "given_images",
    "image_set",
    "is_at_hand",
    "load_arrays",
    "load_csv",
    "load_digits",
    "load_image_folder",
    "load_mnist",
    "load_mnist_or_digits",
    "load_synthetic",
    "load_torchvision_set",
    "loader_of",
    "offered_images",
    "open_picture",
    "parts_of",
    "read_picture",
    "seeded_generator",
    "seen_files",
]
