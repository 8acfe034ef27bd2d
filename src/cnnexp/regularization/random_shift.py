"""Random shifts of training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.regularization.regularizer import Draws, Regularizer


@dataclass
class RandomShift(Regularizer):
    """Move each image by whole pixels, in both directions between −``pixels`` and ``pixels``.

    Args:
        pixels: At least 1. Pixels that come in from beyond the edge repeat the edge's; zeros would be the
            mean of all images, a grey frame that no image has.

    Raises:
        ValueError: ``pixels`` is below 1.
    """

    name = "random_shift"

    pixels: int

    def __post_init__(self) -> None:
        self.require(self.pixels >= 1, "pixels", "at least 1")

    def images(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the shifted images: (B, C, H, W) → (B, C, H, W)."""
        n, _, height, width = images.shape
        p = self.pixels
        corner = draws.integers(2 * p + 1, 1, before=(2,)).to(images.device)
        rows = corner[0] + torch.arange(height, device=images.device)
        columns = corner[1] + torch.arange(width, device=images.device)
        padded = F.pad(images, (p, p, p, p), mode="replicate")
        each = torch.arange(n, device=images.device).view(n, 1, 1)
        return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
