"""What is wrong with labels and images, seen without a network."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_MOST_HASHED = 200_000  # images whose bytes are compared; some 0.1 s
_TRAIN, _QUERIES = 3000, 600  # of the nearest-neighbour check


def label_facts(train: Tensor, val: Tensor, classes: int) -> dict[str, Any]:
    """Facts of the labels of the training (N,) and validation (M,) images.

    Returns:
        ``train_images``, ``val_images``; ``present``: how many classes have training images;
        ``missing``: the classes that have none, at most ten; ``majority``: the share of the validation
        images (without any, of the training images) that the largest training class has;
        ``unseen``: the share of validation images whose class has no training image.
    """
    counts = torch.bincount(train, minlength=classes)
    judged = val if len(val) else train
    largest = int(counts.argmax())
    return {
        "train_images": len(train),
        "val_images": len(val),
        "present": int((counts > 0).sum()),
        "missing": [int(c) for c in (counts[:classes] == 0).nonzero()[:10, 0]],
        "majority": float((judged == largest).double().mean()),
        "unseen": float((counts[val] == 0).double().mean()) if len(val) else 0.0,
    }


def expected_classes(counts: Tensor, batch: int) -> float:
    """How many classes a batch drawn at random is expected to have, of class ``counts`` (C,)."""
    shares = counts.double() / counts.sum().clamp(min=1)
    return float((1 - (1 - shares) ** batch).sum())


def duplicates(train: Tensor, val: Tensor) -> float:
    """The share of validation images (M, C, H, W) uint8 that are a training image, pixel by pixel.

    Images of a single colour do not count. At most 200,000 training images are looked at.
    """
    if not len(val):
        return 0.0
    flat = val.flatten(1)
    plain = (flat == flat[:, :1]).all(1)
    known = {row.tobytes() for row in train[:_MOST_HASHED].flatten(1).numpy()}
    rows = zip(flat.numpy(), plain.tolist(), strict=True)
    return sum(not one and row.tobytes() in known for row, one in rows) / len(val)


def neighbour_agreement(
    images: Tensor, labels: Tensor, queries: Tensor, truth: Tensor
) -> tuple[float, float]:
    """How often the nearest training image has the same label, and how often two images at random have.

    Where labels belong to the images the first is well above the second, whatever a network makes of
    them; where they were shuffled both are equal. Up to 3,000 training images and 600 queries, evenly
    spread, are compared by the distance of their pixels.

    Args:
        images, labels: (N, C, H, W) uint8 and (N,), the training images.
        queries, truth: (M, C, H, W) uint8 and (M,), other images.
    """
    chosen = _spread(len(images), _TRAIN)
    asked = _spread(len(queries), _QUERIES)
    base, given = images[chosen].flatten(1).float(), labels[chosen]
    those, right = queries[asked].flatten(1).float(), truth[asked]
    distance = (base * base).sum(1) - 2 * those @ base.T
    nearest = given[distance.argmin(1)]
    classes = int(max(int(given.max()), int(right.max()))) + 1
    one, other = (torch.bincount(x, minlength=classes).double() / len(x) for x in (nearest, right))
    return float((nearest == right).double().mean()), float((one * other).sum())


def above_chance(share: float, chance: float, count: int) -> bool:
    """Whether a ``share`` of ``count`` is more than chance gives, by four standard deviations."""
    return share > chance + 4 * math.sqrt(max(chance * (1 - chance), 1e-6) / max(count, 1))


def _spread(size: int, most: int) -> Tensor:
    """At most ``most`` indices below ``size``, evenly spread."""
    return torch.linspace(0, size - 1, min(size, most)).long()
