"""The settings of a private training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cnnexp.privacy.accounting import KINDS
from cnnexp.privacy.clipping import Clipping

__all__ = ["PrivacySettings"]


@dataclass
class PrivacySettings:
    """What is promised to the people whose images are trained on, and how it is kept.

    Attributes:
        name: ``"none"`` for a plain training, ``"dp_sgd"`` for a private one.
        epsilon: ε > 0, the budget: no step is made that would exceed it. Without ``noise_multiplier`` it
            chooses the noise for the whole training. None for no budget.
        noise_multiplier: σ ≥ 0, the standard deviation of the noise by the clipping norm; None to choose it
            by ``epsilon``.
        delta: δ, between 0 and 1; far below 1 by the number of training images.
        clip: C > 0, how much one image may move the sum of the gradients, as a Euclidean norm.
        clipping: ``flat``, ``per_layer`` or ``automatic``; see ``cnnexp.privacy.Clipping``.
        augmentations: K ≥ 1: a step is by so many copies of each image, each changed anew by what
            ``regularization`` does to images; the mean of their gradients is clipped.
        accountant: Which figure the budget is about: ``pld`` (privacy loss distributions, the tighter one)
            or ``rdp`` (Rényi divergences). Both are reported.
        secure_noise: Draw noise and batches from the operating system's entropy, so that nobody can draw them
            again. False draws them from the run's seed: for tests, never for data that matters.
    """

    name: str = "none"
    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    clip: float = 1.0
    clipping: str = "flat"
    augmentations: int = 1
    accountant: str = "pld"
    secure_noise: bool = True

    def __post_init__(self) -> None:
        _one_of("name", self.name, ("none", "dp_sgd"))
        _one_of("accountant", self.accountant, KINDS)
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise ValueError(
                f"privacy.epsilon={self.epsilon}: must be greater than 0 and finite, or null"
            )
        if self.noise_multiplier is not None and not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(
                f"privacy.noise_multiplier={self.noise_multiplier}: must be at least 0 and finite, or null "
                f"to choose it by privacy.epsilon"
            )
        if not 0 < self.delta < 1:
            raise ValueError(f"privacy.delta={self.delta}: must be between 0 and 1, such as 1e-5")
        if self.augmentations < 1:
            raise ValueError(f"privacy.augmentations={self.augmentations}: must be at least 1")
        try:
            _ = self.limit
        except ValueError as error:
            raise ValueError(f"privacy.{error}") from error
        if self.private and math.isinf(self.clip) and self.noise_multiplier != 0:
            raise ValueError(
                f"privacy.clip={self.clip}: no noise covers what is not clipped; give a finite norm, or "
                f"privacy.noise_multiplier=0"
            )
        if self.private and self.epsilon is None and self.noise_multiplier is None:
            raise ValueError(
                "privacy.epsilon=null, privacy.noise_multiplier=null: give the budget or the noise, for "
                "example privacy.epsilon=3"
            )

    @property
    def limit(self) -> Clipping:
        """How gradients are clipped; raises ``ValueError`` if a setting of it is out of range."""
        kind: Any = self.clipping
        return Clipping(self.clip, kind)

    @property
    def private(self) -> bool:
        """Whether the training is a private one."""
        return self.name != "none"


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"privacy.{name}={value}: must be one of {', '.join(allowed)}")
