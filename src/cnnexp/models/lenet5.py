"""LeNet-5, in the form that is usual today."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnexp.models.activation import activation_layer


class LeNet5(nn.Module):
    """Two blocks conv 5×5 → activation → average-pool 2×2, then three linear layers to the logits.

    The first convolution is padded by 2, so that 28×28 images are treated as the 32×32 of the paper.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        image_size: (H, W) of the images, at least 12 × 12.
        activation: Name of an activation, see ``cnnexp.models.activation``; the paper's is ``tanh``.

    Raises:
        ValueError: The images are too small, or the activation is unknown.

    Source: LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document
    Recognition" (1998), section II.B; softmax output and full connections as is usual today.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: Sequence[int] = (28, 28),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        h, w = ((size // 2 - 4) // 2 for size in image_size)
        if min(h, w) < 1:
            raise ValueError(
                f"images of {image_size[0]}×{image_size[1]} are too small for LeNet-5 (12×12 at least)"
            )
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2),  # (6, 28, 28)
            activation_layer(activation),
            nn.AvgPool2d(2),  # (6, 14, 14)
            nn.Conv2d(6, 16, 5),  # (16, 10, 10)
            activation_layer(activation),
            nn.AvgPool2d(2),  # (16, 5, 5)
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * h * w, 120),
            activation_layer(activation),
            nn.Linear(120, 84),
            activation_layer(activation),
            nn.Linear(84, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        return self.classifier(torch.flatten(self.features(images), 1))
