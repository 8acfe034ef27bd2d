"""Canaries: training images with wrong labels, each of which is trained on or left out by a fair coin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnexp.attacks.altered import RunSplit, altered, split_as_the_run
from cnnexp.attacks.one_run import coins, wrong_labels
from cnnexp.data import ImageSet, Samples

TARGET = "cnnexp.attacks.canaries.load"


@dataclass(frozen=True)
class Canaries:
    """How many canaries there are, and the seed of their choice, labels and coins."""

    count: int
    seed: int


@dataclass(frozen=True)
class DrawnCanaries:
    """The canaries among a run's training images.

    Attributes:
        indices: (M,) their places among these.
        labels: (M,) their wrong labels.
        included: (M,) bool: whether each is trained on.
    """

    indices: Tensor
    labels: Tensor
    included: Tensor


def draw(train: Samples, classes: int, canaries: Canaries) -> DrawnCanaries:
    """Draw the canaries; the same seed draws the same.

    Raises:
        ValueError: There are fewer training images.
    """
    count, seed = canaries.count, canaries.seed
    if not 2 <= count <= len(train):
        raise ValueError(
            f"canaries={count}: must be at least 2 and at most the {len(train)} training images of the run"
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    indices = order[:count].sort().values
    labels = wrong_labels(train.labels[indices], classes, seed + 1)
    return DrawnCanaries(indices, labels, coins(count, seed + 2))


def load(
    loader: Callable[..., ImageSet], run_split: RunSplit, canaries: Canaries, **arguments: Any
) -> ImageSet:
    """The images of a run, with those canaries in place whose coin says so, and without the others.

    Args:
        loader: The run's own loader.
        run_split: The keys by which the run splits its images.
        canaries: Their number and seed.
        **arguments: Those of the loader.
    """
    run = split_as_the_run(loader, arguments, run_split)
    drawn = draw(run.train, len(run.images.classes), canaries)
    labels = run.train.labels.clone()
    labels[drawn.indices] = drawn.labels
    kept = torch.ones(len(run.train), dtype=torch.bool)
    kept[drawn.indices] = drawn.included
    (indices,) = kept.nonzero(as_tuple=True)
    return altered(run, run.train.select(indices, labels[indices]), f"{run_split} {canaries}")
