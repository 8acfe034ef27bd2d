"""What a training draws random changes and masks from: the run's seed or, where draws are secret, the system.

Changes to images and masks of dropout are drawn by places in a batch. In a private training, who knew the
seed would know how one image more moves those of all the others, which the noise does not cover.
"""

from __future__ import annotations

import os

import torch

from cnnexp.data import seeded_generator
from cnnexp.training.ranks import Ranks
from cnnexp.training.training_job import TrainingJob

__all__ = ["seed_layers", "seed_of_changes"]


def seed_of_changes(job: TrainingJob, ranks: Ranks) -> int:
    """The seed of random changes to images and labels, the same on all ranks."""
    if not job.data.secret:
        return job.seed
    return int.from_bytes(ranks.from_first(os.urandom(16)), "big")


def seed_layers(job: TrainingJob, ranks: Ranks) -> None:
    """Seed what layers draw, once the weights are made: on each rank masks of its own for dropout."""
    if job.data.secret:
        torch.manual_seed(int.from_bytes(os.urandom(8), "big"))
    elif not ranks.first:
        torch.manual_seed(seeded_generator(job.seed, ranks.rank).initial_seed())
