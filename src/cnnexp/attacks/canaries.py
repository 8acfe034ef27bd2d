"""Canaries: examples that a network can only know by heart, each trained on or not by a fair coin.

``pattern``: a pattern of black and white cells with a random label, beside the run's training images.
``label``: a training image of the run with a wrong label; without it where the coin says so.

A pattern gives away more: no other image speaks against its label, and each moves the weights in a direction
of its own. So an audit with patterns gives the higher bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnexp.attacks.altered import RunSplit, altered, join, split_as_the_run
from cnnexp.attacks.one_run import coins, wrong_labels
from cnnexp.data import ImageSet, LabelledImages, Samples

TARGET = "cnnexp.attacks.canaries.load"
KINDS = ("pattern", "label")
_CELLS = 7  # of a pattern, along each side


@dataclass(frozen=True)
class Canaries:
    """How many canaries there are, of which kind, and the seed of all that is drawn for them."""

    count: int
    kind: str
    seed: int


@dataclass(frozen=True)
class DrawnCanaries:
    """The canaries of a run.

    Attributes:
        samples: The M canaries.
        included: (M,) bool: whether each is trained on.
        others: (K,) the places of the run's training images that are trained on as well.
    """

    samples: Samples
    included: Tensor
    others: Tensor


def draw(train: Samples, classes: int, canaries: Canaries) -> DrawnCanaries:
    """Draw the canaries beside, or among, the images of ``train``; the same seed draws the same.

    Raises:
        ValueError: The kind is unknown, there are fewer than two canaries or too few images for them, or all
            of them, or none, would be trained on.
    """
    count, seed = canaries.count, canaries.seed
    if canaries.kind not in KINDS:
        raise ValueError(f"canary={canaries.kind}: must be one of {', '.join(KINDS)}")
    if not 2 <= count <= len(train):
        raise ValueError(
            f"canaries={count}: must be at least 2 and at most the {len(train)} training images of the run"
        )
    included, every = coins(count, seed + 2), torch.arange(len(train))
    if bool(included.all()) or not bool(included.any()):
        raise ValueError(
            f"canaries={count}: all coins of seed={seed} fall alike, so that there is nothing to tell apart; "
            f"take more canaries, or another seed"
        )
    generator = torch.Generator().manual_seed(seed)
    if canaries.kind == "pattern":
        images = _patterns(count, train.shape, generator)
        labels = torch.randint(classes, (count,), generator=generator)
        return DrawnCanaries(LabelledImages(images, labels), included, every)
    indices = torch.randperm(len(train), generator=generator)[:count].sort().values
    wrong = wrong_labels(train.labels[indices], classes, seed + 1)
    return DrawnCanaries(train.select(indices, wrong), included, every[~torch.isin(every, indices)])


def _patterns(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """(count, C, H, W) uint8: cells that are 0 or 255, each by a coin."""
    channels, height, width = shape
    side = -(-max(height, width) // _CELLS)
    cells = torch.randint(2, (count, channels, _CELLS, _CELLS), generator=generator)
    whole = cells.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return (255 * whole[:, :, :height, :width]).to(torch.uint8)


def load(
    loader: Callable[..., ImageSet], run_split: RunSplit, canaries: Canaries, **arguments: Any
) -> ImageSet:
    """The images of a run, with those canaries whose coin says so.

    Args:
        loader: The run's own loader.
        run_split: The keys by which the run splits its images.
        canaries: Their number, kind and seed.
        **arguments: Those of the loader.
    """
    run = split_as_the_run(loader, arguments, run_split)
    drawn = draw(run.train, len(run.images.classes), canaries)
    chosen = drawn.samples.select(drawn.included.nonzero().flatten())
    return altered(run, join(run.train.select(drawn.others), chosen), f"{run_split} {canaries}")
