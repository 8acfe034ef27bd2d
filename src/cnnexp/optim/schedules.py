"""Learning-rate schedules that know how long the training is.

A schedule is a callable (optimizer, total_steps, …) → ``torch.optim.lr_scheduler.LRScheduler``;
one step of it is one step of the optimiser.
"""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

__all__ = ["cosine"]


def cosine(optimizer: Optimizer, total_steps: int, min_lr: float = 0.0) -> CosineAnnealingLR:
    """From the optimiser's learning rate down to ``min_lr`` over the whole training, half a cosine.

    Args:
        optimizer: Its learning rates are where the schedule starts.
        total_steps: Optimiser steps of the whole training, ≥ 1.
        min_lr: Where it ends, ≥ 0.

    Raises:
        ValueError: ``min_lr`` is negative.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017),
    equation 5, without restarts.
    """
    if min_lr < 0:
        raise ValueError(f"scheduler.min_lr must be at least 0, but got {min_lr}")
    return CosineAnnealingLR(optimizer, T_max=max(total_steps, 1), eta_min=min_lr)
