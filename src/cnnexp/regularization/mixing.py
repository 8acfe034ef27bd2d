"""Training on mixtures of two images: mixup and CutMix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["CutMix", "MixUp", "mix"]


class MixUp:
    """Blend each image with another of the batch: λ·x + (1 − λ)·x', and the labels likewise.

    λ is drawn once a batch from Beta(α, α).

    Args:
        alpha: α > 0: small values leave most images nearly whole, 1 draws λ evenly.

    Raises:
        ValueError: ``alpha`` is not positive.

    Source: Zhang, Cissé, Dauphin & Lopez-Paz, "mixup: Beyond Empirical Risk Minimization" (2018).

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import MixUp
        >>> images, others = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
        >>> mixed, share = MixUp(1.0)(images, others, torch.Generator().manual_seed(0))
        >>> 0 < share < 1, torch.allclose(mixed, torch.tensor(1 - share))
        (True, True)
    """

    name = "mixup"

    def __init__(self, alpha: float) -> None:
        _positive("mixup", alpha)
        self.alpha = alpha

    def __call__(
        self, images: Tensor, others: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Images and their partners (B, C, H, W) → blends, and the share λ of the first."""
        share = _beta(self.alpha, generator)
        return share * images + (1 - share) * others, share


class CutMix:
    """Paste a rectangle of another image of the batch into each image; labels by the areas.

    The rectangle has the proportions of the image and the area 1 − λ, λ drawn once a batch from
    Beta(α, α); its centre is drawn evenly, and what hangs over the edge is cut off, so the labels
    go by what is left.

    Args:
        alpha: α > 0.

    Raises:
        ValueError: ``alpha`` is not positive.

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features" (2019), section 3.1.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import CutMix
        >>> images, others = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
        >>> mixed, share = CutMix(1.0)(images, others, torch.Generator().manual_seed(0))
        >>> abs(mixed.mean().item() - (1 - share)) < 1e-6  # the share is that of the areas
        True
    """

    name = "cutmix"

    def __init__(self, alpha: float) -> None:
        _positive("cutmix", alpha)
        self.alpha = alpha

    def __call__(
        self, images: Tensor, others: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Images and their partners (B, C, H, W) → patched images, and the share of the first."""
        size = images.shape[-2:]
        side = (1 - _beta(self.alpha, generator)) ** 0.5
        ends = []
        for length in size:
            centre = int(torch.randint(length, (), generator=generator))
            half = side * length / 2
            ends.append((max(round(centre - half), 0), min(round(centre + half), length)))
        (top, bottom), (left, right) = ends
        patched = images.clone()
        patched[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        return patched, 1 - (bottom - top) * (right - left) / (size[0] * size[1])


class _Draws(Protocol):
    """See ``cnnexp.data.Draws``."""

    @property
    def generator(self) -> torch.Generator: ...

    def partners(self) -> Tensor: ...


def mix(
    mixers: Sequence[MixUp | CutMix],
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    draws: _Draws,
    whole: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix a batch, or this process's share of it, by one of ``mixers``, drawn evenly.

    Args:
        mixers: At least one.
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
    mixed, share = mixer(images, all_images[partner], draws.generator)
    own, other = (
        torch.nn.functional.one_hot(each, num_classes).to(images.dtype)
        for each in (labels, all_labels[partner])
    )
    return mixed, share * own + (1 - share) * other


def _beta(alpha: float, generator: torch.Generator) -> float:
    # torch's Beta takes no generator; two Gamma(α) variables do it, drawn by a NumPy generator
    # that is seeded from ours
    seed = int(torch.randint(2**31, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _positive(name: str, alpha: float) -> None:
    if alpha <= 0:
        raise ValueError(f"regularization.{name}.alpha must be above 0, but got {alpha}")
