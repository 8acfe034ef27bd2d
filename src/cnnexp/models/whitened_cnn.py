"""WhitenedCNN: a network for short trainings on colour images, whose first layer is set by the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WhitenedCNN(nn.Module):
    """A whitening convolution, stages of two convolutions with batch normalisation, one linear layer.

    The first convolution is not learned, but for its bias: its kernels are the eigenvectors of the
    covariance of the images' patches, each divided by the square root of its eigenvalue, and their
    negatives, so that its outputs are uncorrelated and of variance 1. A stage is conv 3×3 → max-pool 2×2 →
    batch norm → GELU → conv 3×3 → batch norm → GELU. The normalisations have no scale, and the
    convolutions begin as identities (Dirac) in as many channels as they get.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        image_size: (H, W) of the images; each stage halves it, rounding down.
        channels: C_out of each stage, ≥ 1.
        patch: Height and width of the whitening kernels, ≥ 1: 2·C_in·patch² of them.
        norm_memory: The share of a batch in the running statistics of the normalisations, in (0, 1].

    Raises:
        ValueError: A range is violated, or the images are too small.

    Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), section 3.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        image_size: Sequence[int] = (32, 32),
        channels: Sequence[int] = (64, 256, 256),
        patch: int = 2,
        norm_memory: float = 0.4,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or patch < 1:
            raise ValueError(
                f"channels must be one or more positive numbers and patch at least 1, but got "
                f"{list(channels)} and {patch}"
            )
        if not 0 < norm_memory <= 1:
            raise ValueError(f"norm_memory must be above 0 and at most 1, but got {norm_memory}")
        if min(image_size) - patch + 1 < 2 ** len(channels):
            raise ValueError(
                f"images of {image_size[0]}×{image_size[1]} are too small to be halved {len(channels)} "
                f"times; use fewer channels"
            )
        c_in = 2 * in_channels * patch**2
        self.whitening = nn.Conv2d(in_channels, c_in, patch)
        self.whitening.weight.requires_grad_(False)
        layers: list[nn.Module] = [nn.GELU()]
        for c_out in channels:
            layers += _stage(c_in, c_out, norm_memory)
            c_in = c_out
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(c_in, num_classes, bias=False)

    @torch.no_grad()
    def init_from_images(self, images: Tensor) -> None:
        """Set the kernels of the whitening convolution by the patches of ``images`` (N, C, H, W)."""
        nn.init.zeros_(self.whitening.bias)  # pyright: ignore[reportArgumentType]
        patches = F.unfold(images, self.whitening.kernel_size).transpose(1, 2).flatten(0, 1)
        covariance = patches.mT @ patches / len(patches)
        values, vectors = torch.linalg.eigh(covariance.double())
        kernels = (vectors / (values + 5e-4).sqrt()).mT.reshape(
            -1, *self.whitening.weight.shape[1:]
        )
        self.whitening.weight.copy_(torch.cat([kernels, -kernels]))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        return self.classifier(self.features(self.whitening(images)))


def _stage(c_in: int, c_out: int, norm_memory: float) -> list[nn.Module]:
    first = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    second = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
    for conv in (first, second):
        nn.init.dirac_(conv.weight[: conv.in_channels].data)
    norms = [nn.BatchNorm2d(c_out, momentum=norm_memory) for _ in range(2)]
    for norm in norms:
        norm.weight.requires_grad_(False)
    return [first, nn.MaxPool2d(2), norms[0], nn.GELU(), second, norms[1], nn.GELU()]
