"""Images of any size and number, generated from a seed: for tests of scale."""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.data.images import ImageSet, LabelledImages, image_set

_AT_A_TIME = 1024  # images


def load_synthetic(
    size: int = 10_000,
    *,
    image_size: int = 28,
    channels: int = 1,
    num_classes: int = 10,
    seed: int = 0,
) -> ImageSet:
    """Noisy copies of one random pattern per class; a fifth as many test images, of the same patterns.

    A network learns them easily: they serve to test speed, memory and plumbing.

    Args:
        size: How many training images, ≥ ``num_classes``.
        image_size: Height and width, ≥ 1.
        channels: The number of channels C, ≥ 1.
        num_classes: The number of classes, ≥ 2.
        seed: Seed of patterns and noise.

    Raises:
        ValueError: A range is violated.
    """
    if num_classes < 2 or size < num_classes or min(image_size, channels) < 1:
        raise ValueError(
            f"synthetic images need 2 classes, an image of each, and a positive size, but got size "
            f"{size}, image_size {image_size}, channels {channels}, num_classes {num_classes}"
        )
    generator = torch.Generator().manual_seed(seed)
    shape = channels, image_size, image_size
    patterns = torch.randint(0, 256, (num_classes, *shape), generator=generator, dtype=torch.uint8)
    parts = []
    for count in (size, max(size // 5, num_classes)):
        labels = torch.arange(count) % num_classes
        images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
        _show_patterns(images, patterns, labels, generator)
        parts.append(LabelledImages(images, labels))
    names = tuple(str(each) for each in range(num_classes))
    return image_set("synthetic", parts[0], parts[1], names)


def _show_patterns(
    noise: Tensor, patterns: Tensor, labels: Tensor, generator: torch.Generator
) -> None:
    """Put in the place of half of the pixels of ``noise``, drawn at random, those of the class's pattern.

    Some images at a time: the random numbers of all at once would take four times the memory of the images.
    """
    for images, own in zip(noise.split(_AT_A_TIME), labels.split(_AT_A_TIME), strict=True):
        noisy = torch.rand(images.shape, generator=generator) < 0.5
        images.copy_(torch.where(noisy, images, patterns[own]))
