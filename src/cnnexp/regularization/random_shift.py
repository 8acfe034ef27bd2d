"""Random shifts of training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.regularization.regularizer import Draws, Regularizer

EDGES = ("replicate", "reflect")


@dataclass
class RandomShift(Regularizer):
    """Move each image by whole pixels, in both directions between −``pixels`` and ``pixels``.

    Args:
        pixels: At least 1.
        edge: What comes in from beyond the edge: ``"replicate"`` repeats the edge's pixels, ``"reflect"``
            mirrors those behind it. Zeros would be the mean of all images, a grey frame that no image has.

    Raises:
        ValueError: ``pixels`` is below 1, or ``edge`` unknown; at images that have no
            ``pixels`` behind the edge to mirror.
    """

    name = "random_shift"

    pixels: int
    edge: str = "replicate"

    def __post_init__(self) -> None:
        self.require(self.pixels >= 1, "pixels", "at least 1")
        self.require(self.edge in EDGES, "edge", f"one of {', '.join(EDGES)}")

    def images(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the shifted images: (B, C, H, W) → (B, C, H, W)."""
        height, width = images.shape[-2:]
        p = self.pixels
        if self.edge == "reflect" and p >= min(height, width):
            raise ValueError(
                f"regularization.random_shift.pixels must be below the {min(height, width)} pixels of the "
                f"images' shorter side with edge=reflect, but got {p}"
            )
        corner = draws.integers(2 * p + 1, 1, before=(2,)).to(images.device)
        padded = F.pad(images, (p, p, p, p), mode=self.edge)
        # every shift of every image, without memory of its own; whole rows are copied
        shifts = padded.unfold(2, height, 1).unfold(3, width, 1)
        each = torch.arange(len(images), device=images.device)
        return shifts[each, :, corner[0].view(-1), corner[1].view(-1)]
