"""Random rotations of training images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.regularization.regularizer import Draws, Regularizer


@dataclass
class RandomRotation(Regularizer):
    """Turn each image about its centre by an angle between −``degrees`` and ``degrees``.

    Args:
        degrees: In (0, 180]; pixels that come in from beyond the edge repeat the edge's.

    Raises:
        ValueError: ``degrees`` is not between 0 and 180.
    """

    name = "random_rotation"

    degrees: float

    def __post_init__(self) -> None:
        self.require(0 < self.degrees <= 180, "degrees", "above 0, at most 180")

    def images(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the turned images, interpolated bilinearly: (B, C, H, W) → (B, C, H, W)."""
        n, _, height, width = images.shape
        if n == 0:
            return images
        share = 2 * draws.uniform(dtype=torch.float64) - 1
        angle = (share * math.radians(self.degrees)).to(images)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        # in units of half the height and half the width, which differ
        turn = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1)
        grid = F.affine_grid(turn.view(n, 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
