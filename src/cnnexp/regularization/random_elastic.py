"""Random elastic distortions of training images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.regularization.regularizer import Draws, Regularizer


@dataclass
class RandomElastic(Regularizer):
    """Warp each image by a smooth random field of displacements; beyond the edge is what is at the edge.

    The field is uniform noise in −1…1, smoothed by a Gaussian of ``sigma`` pixels and multiplied by
    ``alpha`` pixels.

    Args:
        alpha: The length of the displacements in pixels, > 0.
        sigma: How smooth the field is, in pixels, > 0.

    Raises:
        ValueError: ``alpha`` or ``sigma`` is not positive.

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks Applied to
    Visual Document Analysis" (2003), section 2.
    """

    name = "random_elastic"

    alpha: float
    sigma: float

    def __post_init__(self) -> None:
        self.require(self.alpha > 0, "alpha", "above 0")
        self.require(self.sigma > 0, "sigma", "above 0")

    def images(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the warped images, interpolated bilinearly: (B, C, H, W) → (B, C, H, W)."""
        n, _, height, width = images.shape
        if n == 0:
            return images
        noise = 2 * draws.uniform(2, height, width).reshape(2 * n, 1, height, width) - 1
        field = self._smooth(noise.to(images)).view(n, 2, height, width)
        pixels = images.new_tensor([2 / width, 2 / height])  # the grid runs from −1 to 1
        still = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(n, 2, 3)
        grid = F.affine_grid(still, list(images.shape), align_corners=False)
        moved = grid + self.alpha * pixels * field.permute(0, 2, 3, 1)
        return F.grid_sample(images, moved, padding_mode="border", align_corners=False)

    def _smooth(self, noise: Tensor) -> Tensor:
        reach = math.ceil(3 * self.sigma)
        at = torch.arange(-reach, reach + 1, device=noise.device, dtype=noise.dtype)
        weights = torch.exp(-((at / self.sigma) ** 2) / 2)
        weights = weights / weights.sum()
        across = F.conv2d(noise, weights.view(1, 1, 1, -1), padding=(0, reach))
        return F.conv2d(across, weights.view(1, 1, -1, 1), padding=(reach, 0))
