"""The article's network, corrected: blocks of convolution, activation and pooling, one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnexp.models.blocks import check_probability, conv_block
from cnnexp.models.init import initialise


class SeedCNN(nn.Module):
    """Blocks conv 'same' → activation → max-pool 2×2, then one linear layer to the logits.

    On 28×28 images the inputs of the article's four blocks are 28, 14, 7 and 3 pixels wide and the last
    output is one pixel: the linear layer has 256 inputs.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        image_size: (H, W) of the images; each block halves it, rounding down.
        channels: C_out of each block, ≥ 1.
        blocks: The number of blocks, ≥ 1: they take the first of ``channels``, and where there are
            more blocks than channels, the last one again. None for one block per entry of ``channels``.
        kernel_size: K of every convolution, or one K for each block; ≥ 1.
        activation: Name of an activation, see ``cnnexp.models.activation``.
        pool_size: Window and stride of the pooling, ≥ 1; 1 means no pooling.
        norm: ``"none"``, or ``"batch"`` or ``"group"`` between convolution and activation.
        dropout: Probability of dropout before the linear layer, in [0, 1).
        spatial_dropout: Probability that a channel is dropped after a block, in [0, 1).
        init: The initialisation, see ``cnnexp.models.initialise``; torch's own by default.

    Raises:
        ValueError: A range is violated, the lists differ in length, or the images are too small
            for the number of blocks.

    Source: the article's ``cnn_model`` with the corrections of docs/derivation.md.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: Sequence[int] = (28, 28),
        channels: Sequence[int] = (32, 64, 128, 256),
        blocks: int | None = None,
        kernel_size: int | Sequence[int] = 3,
        activation: str = "relu",
        pool_size: int = 2,
        norm: str = "none",
        dropout: float = 0.0,
        spatial_dropout: float = 0.0,
        init: str = "default",
    ) -> None:
        super().__init__()
        channels = _widths(channels, blocks)
        kernels = (
            [kernel_size] * len(channels) if isinstance(kernel_size, int) else list(kernel_size)
        )
        _check(channels, kernels, pool_size, image_size)
        check_probability(dropout=dropout, spatial_dropout=spatial_dropout)
        layers: list[nn.Module] = []
        for c_in, c_out, kernel in zip([in_channels, *channels], channels, kernels, strict=False):
            layers += conv_block(c_in, c_out, kernel, activation=activation, norm=norm)
            if pool_size > 1:
                layers.append(nn.MaxPool2d(pool_size))
            if spatial_dropout:
                layers.append(nn.Dropout2d(spatial_dropout))
        self.features = nn.Sequential(*layers)
        h, w = (size // pool_size ** len(channels) for size in image_size)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.classifier = nn.Linear(channels[-1] * h * w, num_classes)
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        return self.classifier(self.dropout(torch.flatten(self.features(images), 1)))


def _widths(channels: Sequence[int], blocks: int | None) -> list[int]:
    """The number of output channels C_out of each block."""
    if blocks is None:
        return list(channels)
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, or None, but got {blocks}")
    return [*channels[:blocks], *list(channels[-1:]) * (blocks - len(channels))]


def _check(
    channels: Sequence[int], kernels: Sequence[int], pool_size: int, image_size: Sequence[int]
) -> None:
    if not channels or min(channels) < 1:
        raise ValueError(f"channels must be one or more positive numbers, but got {list(channels)}")
    if len(kernels) != len(channels):
        raise ValueError(
            f"kernel_size has {len(kernels)} values for {len(channels)} blocks; give one number or "
            f"one for each block"
        )
    if min(kernels) < 1 or pool_size < 1:
        raise ValueError(
            f"kernel_size and pool_size must be at least 1, but got {list(kernels)} and {pool_size}"
        )
    if min(image_size) < pool_size ** len(channels):
        raise ValueError(
            f"images of {image_size[0]}×{image_size[1]} are too small for {len(channels)} blocks that "
            f"each divide the size by pool_size={pool_size}; use fewer blocks or a smaller pool_size"
        )
