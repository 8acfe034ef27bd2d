"""Random changes to training images, a whole batch at once, on the device that they are on.

Each change is a callable (images, draws) → images, for images (B, C, H, W) float in 0…1. Every image
gets random numbers of its own, all drawn on the CPU, so that a seed gives the same images on every
device (up to rounding), however many ranks share the batch. Pixels that come in from beyond the edge
are 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.data.draws import Draws

__all__ = [
    "Augmentation",
    "RandomElastic",
    "RandomErasing",
    "RandomRotation",
    "RandomShift",
]


class Augmentation(Protocol):
    """A random change to a batch of images."""

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the changed images: (B, C, H, W) → (B, C, H, W)."""
        ...


class RandomShift:
    """Move each image by whole pixels, in both directions between −``pixels`` and ``pixels``.

    Raises:
        ValueError: ``pixels`` is below 1.
    """

    def __init__(self, pixels: int) -> None:
        if pixels < 1:
            raise ValueError(f"random_shift.pixels must be at least 1, but got {pixels}")
        self.pixels = pixels

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the shifted images: (B, C, H, W) → (B, C, H, W)."""
        n, _, height, width = images.shape
        p = self.pixels
        corner = draws.integers(2 * p + 1, 1, before=(2,)).to(images.device)
        rows = corner[0] + torch.arange(height, device=images.device)
        columns = corner[1] + torch.arange(width, device=images.device)
        padded = F.pad(images, (p, p, p, p))
        each = torch.arange(n, device=images.device).view(n, 1, 1)
        return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class RandomRotation:
    """Turn each image about its centre by an angle between −``degrees`` and ``degrees``.

    Raises:
        ValueError: ``degrees`` is not between 0 and 180.
    """

    def __init__(self, degrees: float) -> None:
        if not 0 < degrees <= 180:
            raise ValueError(
                f"random_rotation.degrees must be above 0, at most 180, but got {degrees}"
            )
        self.degrees = degrees

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
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
        return F.grid_sample(images, grid, align_corners=False)


class RandomElastic:
    """Warp each image by a smooth random field of displacements.

    The field is even noise in −1…1, smoothed by a Gaussian of ``sigma`` pixels and multiplied by
    ``alpha`` pixels.

    Raises:
        ValueError: ``alpha`` or ``sigma`` is not positive.

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks Applied to
    Visual Document Analysis" (2003), section 2.
    """

    def __init__(self, alpha: float, sigma: float) -> None:
        if alpha <= 0 or sigma <= 0:
            raise ValueError(
                f"random_elastic.alpha and sigma must be above 0, but got {alpha} and {sigma}"
            )
        self.alpha, self.sigma = alpha, sigma

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
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
        return F.grid_sample(images, moved, align_corners=False)

    def _smooth(self, noise: Tensor) -> Tensor:
        reach = math.ceil(3 * self.sigma)
        at = torch.arange(-reach, reach + 1, device=noise.device, dtype=noise.dtype)
        weights = torch.exp(-((at / self.sigma) ** 2) / 2)
        weights = weights / weights.sum()
        across = F.conv2d(noise, weights.view(1, 1, 1, -1), padding=(0, reach))
        return F.conv2d(across, weights.view(1, 1, -1, 1), padding=(reach, 0))


class RandomErasing:
    """Set a rectangle of each image to 0, with probability ``probability``.

    Args:
        probability: The probability that an image is changed, in (0, 1].
        area: The least and the greatest share of the image's area, 0 < least ≤ greatest ≤ 1.

    The ratio of the rectangle's sides is drawn between 3/10 and 10/3, uniformly in its logarithm; a side
    never exceeds the image's.

    Raises:
        ValueError: A range is violated.

    Source: Zhong et al., "Random Erasing Data Augmentation" (2020), algorithm 1.
    """

    def __init__(self, probability: float = 0.5, area: Sequence[float] = (0.02, 0.33)) -> None:
        if not 0 < probability <= 1:
            raise ValueError(
                f"random_erasing.probability must be above 0, at most 1, but got {probability}"
            )
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise ValueError(
                f"random_erasing.area must be two shares, 0 < least ≤ greatest ≤ 1, but got {list(area)}"
            )
        self.probability, self.area = probability, (area[0], area[1])

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images with their rectangles erased: (B, C, H, W) → (B, C, H, W)."""
        _, _, height, width = images.shape
        chosen, share, log_ratio, down, right = draws.uniform(before=(5,))
        least, greatest = self.area
        area = (least + (greatest - least) * share) * height * width
        ratio = torch.exp((2 * log_ratio - 1) * math.log(10 / 3))
        tall = (area * ratio).sqrt().round().clamp(1, height)
        wide = (area / ratio).sqrt().round().clamp(1, width)
        tall = torch.where(chosen < self.probability, tall, 0.0)
        top, left = (down * (height - tall + 1)).floor(), (right * (width - wide + 1)).floor()
        rows, columns = torch.arange(height), torch.arange(width)
        in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
        in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
        erased = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        return images.masked_fill(erased.to(images.device), 0.0)
