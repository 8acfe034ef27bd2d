"""Training on mixtures of two images: what mixup and CutMix have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cnnexp.regularization.regularizer import Draws, Regularizer


def mix(
    mixers: Sequence[Regularizer],
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    draws: Draws,
    whole: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix a batch, or this process's share of it, by one of ``mixers``, drawn evenly.

    Args:
        mixers: At least one, which take part in the event ``mix``.
        images: (B, C, H, W).
        labels: (B,) classes.
        num_classes: Number of classes.
        draws: Of the batch's random numbers.
        whole: Images and labels of the whole batch, where other processes have parts of it.

    Returns:
        Images (B, C, H, W) and targets (B, num_classes), rows that sum to 1.
    """
    mixer = mixers[int(torch.randint(len(mixers), (), generator=draws.generator))]
    partner = draws.partners().to(images.device)
    all_images, all_labels = whole or (images, labels)
    mixed, share = mixer.mix(images, all_images[partner], draws.generator)
    own, other = (
        torch.nn.functional.one_hot(each, num_classes).to(images.dtype)
        for each in (labels, all_labels[partner])
    )
    return mixed, share * own + (1 - share) * other


def draw_beta(alpha: float, generator: torch.Generator) -> float:
    """A number drawn from Beta(``alpha``, ``alpha``).

    torch's Beta takes no generator; two Gamma(α) variables do it, drawn by a NumPy generator that is
    seeded from ours.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))
