"""Random erasing: training images with a rectangle blanked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cnnexp.regularization.regularizer import Draws, Regularizer


@dataclass
class RandomErasing(Regularizer):
    """Set a rectangle of each image to 0, with probability ``probability``.

    Args:
        probability: In (0, 1].
        area: Least and greatest share of the image's area, 0 < least ≤ greatest ≤ 1.

    The ratio of its sides is drawn between 3/10 and 10/3, evenly in its logarithm; a side never
    exceeds the image's.

    Raises:
        ValueError: A range is violated.

    Source: Zhong et al., "Random Erasing Data Augmentation" (2020), algorithm 1.
    """

    name = "random_erasing"
    order = 1  # after the methods that move images, so that the blank rectangle stays as it is

    probability: float = 0.5
    area: list[float] = field(default_factory=lambda: [0.02, 0.33])

    def __post_init__(self) -> None:
        self.require(0 < self.probability <= 1, "probability", "above 0, at most 1")
        fits = len(self.area) == 2 and 0 < self.area[0] <= self.area[1] <= 1
        self.require(fits, "area", "two shares, 0 < least ≤ greatest ≤ 1")

    def images(self, images: Tensor, draws: Draws) -> Tensor:
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
