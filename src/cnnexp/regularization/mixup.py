"""mixup: training on blends of two images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnexp.regularization.mixing import draw_beta
from cnnexp.regularization.regularizer import Regularizer


@dataclass
class MixUp(Regularizer):
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
        >>> mixed, share = MixUp(1.0).mix(images, others, torch.Generator().manual_seed(0))
        >>> 0 < share < 1, torch.allclose(mixed, torch.tensor(1 - share))
        (True, True)
    """

    name = "mixup"

    alpha: float

    def __post_init__(self) -> None:
        self.require(self.alpha > 0, "alpha", "above 0")

    def mix(
        self, images: Tensor, others: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """Images and their partners (B, C, H, W) → blends, and the share λ of the first."""
        share = draw_beta(self.alpha, generator)
        return share * images + (1 - share) * others, share
