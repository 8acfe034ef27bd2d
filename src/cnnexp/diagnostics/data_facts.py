"""What is wrong with labels and images, seen without a network."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_MOST_HASHED = 200_000  # images whose bytes are compared; some 0.3 s
NEIGHBOURS, QUERIES = 3000, 600  # images of the nearest-neighbour check


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


def duplicates(train: Iterable[Tensor], val: Iterable[Tensor]) -> float:
    """The share of validation images that are a training image, pixel by pixel.

    Images of a single colour do not count. At most 200,000 training images are looked at.

    Args:
        train, val: The images, in tensors (N, C, H, W) uint8.
    """
    known: set[bytes] | None = None
    copies = count = 0
    for images in filter(len, val):
        known = _some_hashes(train) if known is None else known
        flat = images.flatten(1)
        plain = (flat == flat[:, :1]).all(1).tolist()
        rows = zip(flat.numpy(), plain, strict=True)
        copies += sum(not one and _hash(row) in known for row, one in rows)
        count += len(images)
    return copies / max(count, 1)


def _some_hashes(parts: Iterable[Tensor]) -> set[bytes]:
    """Those of the first images, at most :data:`_MOST_HASHED`; what comes after them is not read."""
    rows = (row for images in parts for row in images.flatten(1).numpy())
    return {_hash(row) for row in itertools.islice(rows, _MOST_HASHED)}


def _hash(row: Any) -> bytes:
    """Of the bytes of an image, which two different ones do not share."""
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def neighbour_agreement(
    images: Tensor, labels: Tensor, queries: Tensor, truth: Tensor
) -> tuple[float, float]:
    """How often the nearest training image has the same label, and how often two images at random have.

    Where labels belong to the images the first is well above the second, whatever a network makes of
    them; where they were shuffled both are equal. Images are compared by the distance of their pixels:
    :data:`NEIGHBOURS` and :data:`QUERIES` of them, evenly ``spread``, are enough.

    Args:
        images, labels: (N, C, H, W) uint8 and (N,), training images.
        queries, truth: (M, C, H, W) uint8 and (M,), other images.
    """
    base, those = images.flatten(1).float(), queries.flatten(1).float()
    distance = (base * base).sum(1) - 2 * those @ base.T
    nearest = labels[distance.argmin(1)]
    classes = int(max(int(labels.max()), int(truth.max()))) + 1
    one, other = (torch.bincount(x, minlength=classes).double() / len(x) for x in (nearest, truth))
    return float((nearest == truth).double().mean()), float((one * other).sum())


def above_chance(share: float, chance: float, count: int) -> bool:
    """Whether a ``share`` of ``count`` is more than chance gives, by four standard deviations."""
    return share > chance + 4 * math.sqrt(max(chance * (1 - chance), 1e-6) / max(count, 1))


def spread(indices: Tensor, most: int) -> Tensor:
    """At most ``most`` of ``indices`` (N,), evenly spread."""
    return indices[torch.linspace(0, len(indices) - 1, min(len(indices), most)).long()]
