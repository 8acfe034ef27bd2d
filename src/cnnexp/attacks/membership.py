"""Membership inference: was an image among those that a network was trained on?

``loss_scores``: an image with a small loss is taken for a member (Yeom, Giacomelli, Fredrikson & Jha,
"Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting", 2018, adversary 1).

``likelihood_ratios``: the online attack of Carlini, Chien, Nasr, Song, Terzis & Tramèr, "Membership Inference
Attacks From First Principles" (2022, algorithm 1). The scaled confidence φ = log(p / (1 − p)) of the target
in an image's label is compared with those of shadow trainings with the image, normal with μ_in, σ_in, and
of shadows without it, normal with μ_out, σ_out:

    score = log N(φ; μ_in, σ_in²) − log N(φ; μ_out, σ_out²).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.attacks.scoring import ImageScores

FEWEST_SHADOWS = 4  # a variance needs two shadows with an image, and two without
# with fewer, a variance of all images is more exact than one of each (section VI.B)
ENOUGH_FOR_OWN = 64


def loss_scores(scores: ImageScores) -> Tensor:
    """(N,) scores, the higher the more an image looks like a member: minus the losses."""
    return -scores.losses


def likelihood_ratios(target: Tensor, shadows: Tensor, inside: Tensor) -> Tensor:
    """The score of each image, the higher the more it looks like a member.

    With fewer than 64 shadows the variances inside and outside are those of all images together.

    Args:
        target: (N,) scaled confidences of the network that is attacked.
        shadows: (S, N) those of the shadows.
        inside: (S, N) bool: whether a shadow was trained on an image.

    Returns:
        (N,) log likelihood ratios.

    Raises:
        ValueError: An image is in, or out of, fewer than two shadows.
    """
    least = int(torch.stack([inside.sum(0), (~inside).sum(0)]).min())
    if least < 2:
        raise ValueError(
            f"an image is in, or out of, {least} of {len(shadows)} shadows: need 2 at least"
        )
    own = len(shadows) >= ENOUGH_FOR_OWN
    return _log_normal(target, shadows, inside, own) - _log_normal(target, shadows, ~inside, own)


def _log_normal(target: Tensor, shadows: Tensor, chosen: Tensor, own_variance: bool) -> Tensor:
    """The log N(target; μ, σ²) of each image but for a constant, by the ``chosen`` of its shadows."""
    counts = chosen.sum(0)
    mean = torch.where(chosen, shadows, 0.0).sum(0) / counts
    squares = torch.where(chosen, shadows - mean, 0.0).square().sum(0)
    variance = squares / (counts - 1) if own_variance else squares.sum() / (counts - 1).sum()
    variance = variance + 1e-12  # shadows that agree to the bit
    return -((target - mean).square() / variance + variance.log()) / 2
