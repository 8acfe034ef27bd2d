"""Mirrored training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnexp.regularization.regularizer import Draws, Regularizer


@dataclass
class RandomFlip(Regularizer):
    """Mirror training images left to right; not for digits, whose mirror images are no digits.

    Args:
        alternate: Whether each image is mirrored in every other epoch, so that two epochs see both of its
            forms once; which comes first is decided by its pixels, and is as good as drawn. Otherwise each is
            mirrored with probability ½, and a quarter of the images looks the same in two epochs.

    Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), section 3.6.
    """

    name = "random_flip"
    order = -1  # the pixels that decide are those of the image as it is in the set

    alternate: bool

    def images(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images, some of them mirrored: (B, C, H, W) → (B, C, H, W)."""
        if self.alternate:
            sums = (images * 255).round().sum((1, 2, 3), dtype=torch.float64)
            mirrored = (sums.long() + draws.epoch) % 2 == 1
        else:
            mirrored = draws.integers(2).to(images.device) == 1
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
