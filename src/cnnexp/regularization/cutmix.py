"""CutMix: training on images with a patch of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnexp.regularization.mixing import draw_beta
from cnnexp.regularization.regularizer import Regularizer


@dataclass
class CutMix(Regularizer):
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
        >>> mixed, share = CutMix(1.0).mix(images, others, torch.Generator().manual_seed(0))
        >>> abs(mixed.mean().item() - (1 - share)) < 1e-6  # the share is that of the areas
        True
    """

    name = "cutmix"
    order = 1  # after mixup, as runs of 0.1.0 drew one of the two

    alpha: float

    def __post_init__(self) -> None:
        self.require(self.alpha > 0, "alpha", "above 0")

    def mix(
        self, images: Tensor, others: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Images and their partners (B, C, H, W) → patched images, and the share of the first."""
        size = images.shape[-2:]
        side = (1 - draw_beta(self.alpha, generator)) ** 0.5
        ends = []
        for length in size:
            centre = int(torch.randint(length, (), generator=generator))
            half = side * length / 2
            ends.append((max(round(centre - half), 0), min(round(centre + half), length)))
        (top, bottom), (left, right) = ends
        patched = images.clone()
        patched[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        return patched, 1 - (bottom - top) * (right - left) / (size[0] * size[1])
