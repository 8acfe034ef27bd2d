"""The small network with tanh that private training on MNIST is compared by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnexp.models.activation import activation_layer

__all__ = ["TanhCNN"]


class TanhCNN(nn.Module):
    """Two convolutions of stride 2, each with an activation and a max-pool of stride 1, two linear layers.

    26,010 parameters for MNIST. A bounded activation keeps the gradients small, so that clipping takes less
    of them.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        image_size: (H, W) of the images, at least 14 × 14.
        activation: Name of an activation, see ``cnnexp.models.activation``.

    Raises:
        ValueError: The images are too small, or the activation is unknown.

    Source: Papernot, Thakurta, Song, Chien & Erlingsson, "Tempered Sigmoid Activations for Deep Learning
    with Differential Privacy" (2021), table 1.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: Sequence[int] = (28, 28),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        h, w = (((size // 2 - 1) - 4) // 2 for size in image_size)
        if min(h, w) < 1:
            raise ValueError(
                f"images of {image_size[0]}×{image_size[1]} are too small for TanhCNN (14×14 at least)"
            )
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 16, 8, stride=2, padding=3),  # (16, 14, 14)
            activation_layer(activation),
            nn.MaxPool2d(2, 1),  # (16, 13, 13)
            nn.Conv2d(16, 32, 4, stride=2),  # (32, 5, 5)
            activation_layer(activation),
            nn.MaxPool2d(2, 1),  # (32, 4, 4)
        )
        self.classifier = nn.Sequential(
            nn.Linear(32 * h * w, 32), activation_layer(activation), nn.Linear(32, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        return self.classifier(torch.flatten(self.features(images), 1))
