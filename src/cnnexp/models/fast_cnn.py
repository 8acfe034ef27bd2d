"""FastCNN: the network of the shortest trainings, two convolutions and two linear layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class FastCNN(nn.Module):
    """Few multiplications, each of which learns: a strided convolution, one with pooling, two linear layers.

    conv 5×5 of stride 2 → batch norm → ReLU → ``len(channels) − 1`` times (conv 3×3 → max-pool 2×2, in the
    last one only → batch norm → ReLU) → linear → batch norm → ReLU → linear. The pooling stands before
    its normalisation, which then has a quarter of the pixels; nothing is padded. On 28×28 images with
    ``crop=2`` the convolutions see 24×24 and 10×10 pixels, the first linear layer 4×4: 0.4 million
    multiplications an image with the default widths, a third of those of LeNet-sized networks.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        image_size: (H, W) of the images.
        channels: C_out of each convolution, two or more.
        hidden: Outputs of the first linear layer, ≥ 1.
        crop: Rows and columns left out at each edge, ≥ 0: MNIST's are almost always blank.
        norm_memory: The share of a batch in the running statistics of the normalisations, in (0, 1]. Torch's
            0.1 remembers tens of steps, too many where there are only a hundred.

    Raises:
        ValueError: A range is violated, or the images are too small.

    Source: the shape of LeNet-5 (LeCun et al., 1998), with the batch normalisation of Ioffe & Szegedy
    (2015); pooling before it as in K. Jordan's cifar10-airbench (2024). docs/fast.md has what each gains.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: Sequence[int] = (28, 28),
        channels: Sequence[int] = (16, 32),
        hidden: int = 96,
        crop: int = 2,
        norm_memory: float = 0.4,
    ) -> None:
        super().__init__()
        height, width = (_size_after(size, len(channels), crop) for size in image_size)
        _check(channels, hidden, crop, norm_memory)
        if min(height, width) < 1:
            raise ValueError(
                f"images of {image_size[0]}×{image_size[1]} are too small for {len(channels)} convolutions "
                f"after a crop of {crop}; use fewer channels or a smaller crop"
            )
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels[0], 5, stride=2, bias=False),
            nn.BatchNorm2d(channels[0], momentum=norm_memory),
            nn.ReLU(),
        ]
        for i, c_out in enumerate(channels[1:], start=1):
            layers += [
                nn.Conv2d(channels[i - 1], c_out, 3, bias=False),
                *([nn.MaxPool2d(2)] if i + 1 == len(channels) else []),
                nn.BatchNorm2d(c_out, momentum=norm_memory),
                nn.ReLU(),
            ]
        self.crop = crop
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * height * width, hidden, bias=False),
            nn.BatchNorm1d(hidden, momentum=norm_memory),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        height, width = images.shape[-2:]
        edge = self.crop
        inner = images[:, :, edge : height - edge, edge : width - edge] if edge else images
        return self.classifier(self.features(inner))


def _size_after(size: int, convolutions: int, crop: int) -> int:
    """Height or width after all convolutions and the pooling."""
    return ((size - 2 * crop - 5) // 2 + 1 - 2 * (convolutions - 1)) // 2


def _check(channels: Sequence[int], hidden: int, crop: int, norm_memory: float) -> None:
    if len(channels) < 2 or min(channels) < 1 or hidden < 1:
        raise ValueError(
            f"channels must be two or more positive numbers and hidden at least 1, but got "
            f"{list(channels)} and {hidden}"
        )
    if crop < 0:
        raise ValueError(f"crop must be at least 0, but got {crop}")
    if not 0 < norm_memory <= 1:
        raise ValueError(f"norm_memory must be above 0 and at most 1, but got {norm_memory}")
