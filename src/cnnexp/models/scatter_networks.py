"""Networks on the features of the scattering transform: a linear one, and one of two convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnexp.models.activation import activation_layer
from cnnexp.models.init import initialise
from cnnexp.models.remembered import Remembered
from cnnexp.models.scattering import Scattering2d

__all__ = ["ScatterCNN", "ScatterLinear"]


class ScatterLinear(nn.Module):
    """The scattering transform with 8 angles, group normalisation, one linear layer to the logits.

    The features are normalised by their own mean and variance in each image, so that nothing in the
    network but its weights depends on the training images: a training of it with differential
    privacy spends its whole budget on the weights. The normalisation has no parameters.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        image_size: (H, W) of the images, each at least 2^scales + 1.
        scales: The number of scales of the transform, ≥ 1: features are taken every 2^scales pixels.
        groups: How many groups of neighbouring features are normalised together, a divisor of their
            number (81 · C_in with two scales).
        init: The initialisation, see ``cnnexp.models.initialise``.
        remember: How many megabytes of features are kept of images that were seen, so that they are
            computed once and not in each epoch; see :class:`cnnexp.models.Remembered`.

    Raises:
        ValueError: A range is violated, a name is unknown, or the images are too small.

    Source: Tramèr & Boneh, "Differentially Private Learning Needs Better Features (or Much More Data)"
    (2021); 27 groups without parameters as in their code for Fashion-MNIST. For MNIST they take instead
    the features' means and variances over the training set, with noise that costs privacy.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: Sequence[int] = (28, 28),
        scales: int = 2,
        groups: int = 27,
        init: str = "default",
        remember: float = 1200,
    ) -> None:
        super().__init__()
        scattering = Scattering2d(image_size, scales)
        self.scattering = Remembered(scattering, remember)
        channels = in_channels * scattering.features
        self.norm = _group_norm(groups, channels)
        h, w = scattering.out_size
        self.classifier = nn.Linear(channels * h * w, num_classes)
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        return self.classifier(torch.flatten(self.norm(self.scattering(images)), 1))


class ScatterCNN(nn.Module):
    """The scattering transform with 8 angles, group normalisation, two convolutions 3×3, two linear layers.

    The first convolution has stride 2. As in :class:`ScatterLinear`, the normalisation has no parameters
    and no constants of the data.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        image_size: (H, W) of the images, each at least 2^scales + 1.
        scales: The number of scales of the transform, ≥ 1: features are taken every 2^scales pixels.
        groups: How many groups of neighbouring features are normalised together, a divisor of their
            number (81 · C_in with two scales).
        channels: C_out of the two convolutions, ≥ 1.
        hidden: Outputs of the first linear layer, ≥ 1.
        activation: Name of an activation, see ``cnnexp.models.activation``.
        init: The initialisation, see ``cnnexp.models.initialise``.
        remember: How many megabytes of features are kept of images that were seen, so that they are
            computed once and not in each epoch; see :class:`cnnexp.models.Remembered`.

    Raises:
        ValueError: A range is violated, a name is unknown, or the images are too small.

    Source: Tramèr & Boneh (2021), see :class:`ScatterLinear`: their network for MNIST.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: Sequence[int] = (28, 28),
        scales: int = 2,
        groups: int = 27,
        channels: Sequence[int] = (16, 32),
        hidden: int = 32,
        activation: str = "tanh",
        init: str = "default",
        remember: float = 1200,
    ) -> None:
        super().__init__()
        if len(channels) != 2 or min(*channels, hidden) < 1:
            raise ValueError(
                f"channels must be two positive numbers and hidden at least 1, but got "
                f"{list(channels)} and {hidden}"
            )
        scattering = Scattering2d(image_size, scales)
        self.scattering = Remembered(scattering, remember)
        c_in, (first, second) = in_channels * scattering.features, channels
        self.norm = _group_norm(groups, c_in)
        self.features = nn.Sequential(
            nn.Conv2d(c_in, first, 3, stride=2, padding=1),  # 7×7 features of MNIST → (16, 4, 4)
            activation_layer(activation),
            nn.Conv2d(first, second, 3, padding=1),  # (32, 4, 4)
            activation_layer(activation),
        )
        h, w = ((length + 1) // 2 for length in scattering.out_size)
        self.classifier = nn.Sequential(
            nn.Linear(second * h * w, hidden),
            activation_layer(activation),
            nn.Linear(hidden, num_classes),
        )
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        features = self.features(self.norm(self.scattering(images)))
        return self.classifier(torch.flatten(features, 1))


def _group_norm(groups: int, channels: int) -> nn.GroupNorm:
    if groups < 1 or channels % groups:
        raise ValueError(f"groups must divide the {channels} features, but got {groups}")
    return nn.GroupNorm(groups, channels, affine=False)
