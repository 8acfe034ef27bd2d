"""Shadow trainings: those of a run on other images, each image being in half of them.

A shadow is as large as the run. The images that are scored, as many of the run's training images (the
members) as others, are the pool. A shadow trains on about half of the pool, and on all training images of
the run outside it, which the attacker is taken to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnexp.attacks.altered import RunSplit, altered, join, split_as_the_run
from cnnexp.data import ImageDataModule, ImageSet

TARGET = "cnnexp.attacks.shadows.load"


@dataclass(frozen=True)
class Shadow:
    """Which shadow it is: ``number`` ``of`` how many, and the seed of pool and halves."""

    number: int
    of: int
    seed: int


@dataclass(frozen=True)
class Pool:
    """The images that are scored.

    Attributes:
        members: (K,) places among the run's training images.
        others: (K,) places among the official test images.
    """

    members: Tensor
    others: Tensor


def pool_of(run: ImageDataModule, seed: int) -> Pool:
    """As many members as non-members, as many as there are of the fewer, drawn by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    count = min(len(run.train), len(run.images.test))
    members, others = (
        torch.randperm(len(part), generator=generator)[:count].sort().values
        for part in (run.train, run.images.test)
    )
    return Pool(members, others)


def design(images: int, shadows: int, seed: int) -> Tensor:
    """Which shadow trains on which image: (shadows, images) bool, each column true in half of its rows."""
    draws = torch.rand(shadows, images, generator=torch.Generator().manual_seed(seed))
    return draws.argsort(0) < shadows // 2


def load(
    loader: Callable[..., ImageSet], run_split: RunSplit, shadow: Shadow, **arguments: Any
) -> ImageSet:
    """The images of a run, with those training images that ``shadow`` has in place of the run's.

    Args:
        loader: The run's own loader.
        run_split: The keys by which the run splits its images.
        shadow: Which shadow it is.
        **arguments: Those of the loader.
    """
    run = split_as_the_run(loader, arguments, run_split)
    pool = pool_of(run, shadow.seed)
    count = len(pool.members)
    inside = design(2 * count, shadow.of, shadow.seed)[shadow.number]
    kept = torch.ones(len(run.train), dtype=torch.bool)
    kept[pool.members] = inside[:count]
    train = join(
        run.train.select(kept.nonzero().flatten()),
        run.images.test.select(pool.others[inside[count:]]),
    )
    return altered(run, train, f"{run_split} {shadow}")
