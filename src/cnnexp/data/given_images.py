"""Images that a program gives as objects: tensors, arrays, data sets and data modules."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import PIL.Image
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from cnnexp.data.images import ImageSet, LabelledImages, Samples, image_set
from cnnexp.data.module import ImageDataModule

__all__ = ["as_image_set", "given_images", "offered_images"]

log = logging.getLogger(__name__)

_OFFERED: dict[str, ImageSet] = {}
_DRAWN_AGAIN = 16  # images of a data set that are taken twice, to see whether they are drawn
_TEST_SHARE = 6  # one image of six, where no test images are given


@contextmanager
def offered_images(images: ImageSet) -> Iterator[None]:
    """Within it :func:`given_images` with its checksum gives ``images``."""
    before = _OFFERED.get(images.checksum)
    _OFFERED[images.checksum] = images
    try:
        yield
    finally:
        del _OFFERED[images.checksum]
        if before is not None:
            _OFFERED[images.checksum] = before


def given_images(name: str, checksum: str) -> ImageSet:
    """The image set that the program offers; see :func:`offered_images`.

    Raises:
        ValueError: This program offers none with this checksum.
    """
    if checksum not in _OFFERED:
        raise ValueError(
            f"the images '{name}' (checksum {checksum}) were given as an object, which no config can name; "
            f"name others with data=…, or resume the run by cnnexp.fit(…, data, resume=folder)"
        )
    return _OFFERED[checksum]


def as_image_set(data: Any, test: Any = None, *, classes: Sequence[str] | None = None) -> ImageSet:
    """``data`` as an :class:`ImageSet`.

    Images are kept as 8 bits a channel; floating-point ones must lie in 0…1. Where no test images are given,
    every sixth image is held out for the test.

    Args:
        data: ``(x, y)``, tensors or arrays of images (N, C, H, W) or (N, H, W) and classes (N,); a map-style
            ``Dataset`` of (image, class); an ``ImageSet``; an ``ImageDataModule``; or a
            ``LightningDataModule``, whose loaders' data sets are taken.
        test: The test images, likewise; not beside an image set or data module, which have their own.
        classes: The name of each class; None for the data set's own, or 0, 1, ….

    Raises:
        ValueError: It is none of these, or not images of classes.
    """
    if isinstance(data, ImageDataModule):
        data = data.images
    if isinstance(data, (ImageSet, LightningDataModule)) and test is not None:
        raise ValueError(f"test: {type(data).__name__} has test images of its own; leave test out")
    if isinstance(data, ImageSet):
        return data
    val = None
    names = classes
    if isinstance(data, LightningDataModule):
        train_set, val_set, test_set = _parts_of(data)
        names = names or getattr(train_set, "classes", None)
        train, test_part = _labelled("data", train_set), _labelled("test", test_set)
        val = None if val_set is None else _labelled("data", val_set)
    else:
        names = names or getattr(data, "classes", None)
        train: Samples = _labelled("data", data)
        if test is None:
            train, test_part = _held_out(train)
        else:
            test_part = _labelled("test", test)
    parts = [train, test_part, *([] if val is None else [val])]
    if len({part.shape for part in parts}) > 1:
        raise ValueError(f"test: images {test_part.shape}, but those to train on are {train.shape}")
    count = 1 + max(int(part.labels.max()) for part in parts if len(part))
    named = tuple(map(str, names)) if names else tuple(map(str, range(max(2, count))))
    if len(named) < count:
        raise ValueError(f"classes: {len(named)} names, but the labels reach {count - 1}")
    made = image_set("given", train, test_part, named)
    return made if val is None else ImageSet(**{**vars(made), "val": val})


def _held_out(part: Samples) -> tuple[Samples, Samples]:
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    held = len(part) // _TEST_SHARE
    if not held:
        raise ValueError(f"data: {len(part)} images are too few to hold some out; give test=(x, y)")
    log.info("no test images are given: %s of %s are held out for the test", held, len(part))
    return part.select(order[held:].sort().values), part.select(order[:held].sort().values)


def _parts_of(module: LightningDataModule) -> tuple[Any, Any, Any]:
    """The data sets of its loaders: train, val or None, test."""
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    train = module.train_dataloader().dataset
    try:
        val = module.val_dataloader().dataset
    except Exception:  # what Lightning raises where there is none has had several types
        val = None
    try:
        return train, val, module.test_dataloader().dataset
    except Exception as error:
        raise ValueError(
            f"data: {type(module).__name__} has no test_dataloader(), by which a run ends; add one"
        ) from error


def _labelled(what: str, data: Any) -> LabelledImages:
    """A pair, or all items of a data set, as 8-bit images and labels."""
    if isinstance(data, (tuple, list)) and len(data) == 2:
        images, labels = (torch.as_tensor(each) for each in data)
    elif isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        sized: Any = data
        items = [sized[i] for i in range(len(sized))]
        if not items or not all(
            isinstance(each, (tuple, list)) and len(each) == 2 for each in items
        ):
            raise ValueError(f"{what}: {type(data).__name__} must give pairs (image, class)")
        images = torch.stack([_tensor(image) for image, _ in items])
        _refuse_draws(what, sized, images)
        labels = torch.as_tensor([int(label) for _, label in items])
    else:
        raise ValueError(
            f"{what}: {type(data).__name__} is no data; give a name such as 'mnist', a pair (x, y), a "
            f"Dataset or a data module"
        )
    return LabelledImages(_bytes(what, images), _classes(what, labels, len(images)))


def _refuse_draws(what: str, sized: Any, images: Tensor) -> None:
    """Refuse a data set that changes its images at random: one draw of each would be kept for all epochs."""
    for place, image in enumerate(images[:_DRAWN_AGAIN]):
        again = _tensor(sized[place][0])
        if again.shape != image.shape or not torch.allclose(again, image, equal_nan=True):
            raise ValueError(
                f"{what}: item {place} of {type(sized).__name__} is another image each time; leave random "
                f"transforms out, and change the images of each batch by the regularization, as by "
                f"random_shift or random_flip"
            )


def _tensor(image: Any) -> Tensor:
    """A tensor, an array, or a picture of PIL's, as a tensor."""
    if isinstance(image, PIL.Image.Image):
        from torchvision.transforms.functional import pil_to_tensor  # late: it takes a second

        return pil_to_tensor(image)
    return torch.as_tensor(image)


def _bytes(what: str, images: Tensor) -> Tensor:
    """(N, C, H, W) uint8."""
    if images.dim() == 3:
        images = images.unsqueeze(1)
    if images.dim() != 4 or not images.numel():
        raise ValueError(
            f"{what}: images of shape {list(images.shape)}; must be (N, C, H, W) or (N, H, W)"
        )
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        if int(images.min()) < 0 or int(images.max()) > 255:
            raise ValueError(f"{what}: images of {images.dtype} must lie in 0…255")
        return images.to(torch.uint8)
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{what}: images from {low:.4g} to {high:.4g}; floating-point images must lie in 0…1, not yet "
            f"normalised: that is the training's, by their mean and standard deviation"
        )
    scaled = images.float() * 255
    kept = scaled.round()
    if float((scaled - kept).abs().max()) > 0.01:
        log.warning("%s: images are kept as 8 bits a channel, rounded to 1/255", what)
    return kept.to(torch.uint8)


def _classes(what: str, labels: Tensor, count: int) -> Tensor:
    """(N,) int64."""
    if labels.shape != (count,):
        raise ValueError(
            f"{what}: labels of shape {list(labels.shape)} for {count} images; must be (N,)"
        )
    if labels.is_floating_point() or (count and int(labels.min()) < 0):
        raise ValueError(
            f"{what}: labels must be classes 0, 1, …, but are {labels.dtype} {labels[:3].tolist()}"
        )
    return labels.long()
