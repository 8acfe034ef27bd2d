"""Networks of stacked convolutions between poolings: VGGLike, and TinyCNN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnexp.models.blocks import check_probability, conv_block
from cnnexp.models.init import initialise


class VGGLike(nn.Module):
    """Stages of convolutions 3×3 with a max-pool 2×2 after each, then two linear layers.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        image_size: (H, W) of the images; each stage halves it, rounding down.
        channels: C_out of each stage; their number is the number of stages, ≥ 1.
        depth: Convolutions per stage, ≥ 1.
        hidden: Outputs of the first linear layer, ≥ 1.
        activation: Name of an activation, see ``cnnexp.models.activation``.
        norm: ``"batch"``, ``"group"`` or ``"none"``.
        dropout: Probability of dropout before each linear layer, in [0, 1).
        spatial_dropout: Probability that a channel is dropped after a stage, in [0, 1).
        init: The initialisation, see ``cnnexp.models.initialise``.

    Raises:
        ValueError: A range is violated, a name is unknown, or the images are too small.

    Source: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition" (2015), with batch normalisation as is usual today.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: Sequence[int] = (28, 28),
        channels: Sequence[int] = (32, 64, 128),
        depth: int = 2,
        hidden: int = 128,
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.5,
        spatial_dropout: float = 0.0,
        init: str = "he",
    ) -> None:
        super().__init__()
        _check(channels, depth, image_size)
        check_probability(dropout=dropout, spatial_dropout=spatial_dropout)
        layers: list[nn.Module] = []
        c_in = in_channels
        for c_out in channels:
            for _ in range(depth):
                layers += conv_block(c_in, c_out, 3, activation=activation, norm=norm)
                c_in = c_out
            layers.append(nn.MaxPool2d(2))
            if spatial_dropout:
                layers.append(nn.Dropout2d(spatial_dropout))
        self.features = nn.Sequential(*layers)
        h, w = (size // 2 ** len(channels) for size in image_size)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(c_in * h * w, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        return self.classifier(torch.flatten(self.features(images), 1))


class TinyCNN(nn.Module):
    """Stages of two convolutions 3×3, the mean over the image, one linear layer: under 8,000 parameters.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        image_size: (H, W) of the images; each stage but the last halves it, rounding down.
        channels: C_out of each stage; their number is the number of stages, ≥ 1.
        activation: Name of an activation, see ``cnnexp.models.activation``.
        norm: ``"batch"``, ``"group"`` or ``"none"``.
        dropout: Probability of dropout before the linear layer, in [0, 1).
        init: The initialisation, see ``cnnexp.models.initialise``.

    Raises:
        ValueError: A range is violated, a name is unknown, or the images are too small.

    Source: Lin, Chen & Yan, "Network In Network" (2014), section 3.2, for the mean over the image.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: Sequence[int] = (28, 28),
        channels: Sequence[int] = (8, 12, 16),
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
        init: str = "he",
    ) -> None:
        super().__init__()
        _check(channels[:-1] or channels, 1, image_size)
        check_probability(dropout=dropout)
        layers: list[nn.Module] = []
        c_in = in_channels
        for stage, c_out in enumerate(channels):
            layers += conv_block(c_in, c_out, 3, activation=activation, norm=norm)
            layers += conv_block(c_out, c_out, 3, activation=activation, norm=norm)
            if stage + 1 < len(channels):
                layers.append(nn.MaxPool2d(2))
            c_in = c_out
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.classifier = nn.Linear(c_in, num_classes)
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        return self.classifier(self.dropout(torch.flatten(self.features(images), 1)))


def _check(channels: Sequence[int], depth: int, image_size: Sequence[int]) -> None:
    if not channels or min(channels) < 1 or depth < 1:
        raise ValueError(
            f"channels must be one or more positive numbers and depth at least 1, but got "
            f"{list(channels)} and {depth}"
        )
    if min(image_size) < 2 ** len(channels):
        raise ValueError(
            f"images of {image_size[0]}×{image_size[1]} are too small to be halved {len(channels)} "
            f"times; use fewer channels"
        )
