"""A small residual network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnexp.models.activation import activation_layer
from cnnexp.models.blocks import check_probability, conv_block, norm_layer
from cnnexp.models.init import initialise


class ResidualBlock(nn.Module):
    """Two convolutions 3×3, added to their input: act(x' + norm(conv(act(norm(conv(x)))))).

    x' is x or, where the number of channels or the size changes, a convolution 1×1 of x.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, activation: str, norm: str) -> None:
        super().__init__()
        second = norm_layer(norm, c_out)
        self.residual = nn.Sequential(
            *conv_block(c_in, c_out, 3, activation=activation, norm=norm, stride=stride),
            nn.Conv2d(c_out, c_out, 3, padding=1, bias=second is None),
            *([second] if second else []),
        )
        self.shortcut = nn.Identity()
        if stride > 1 or c_in != c_out:
            self.shortcut = nn.Conv2d(c_in, c_out, 1, stride)
        self.activation = activation_layer(activation)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, c_in, H, W) to (N, c_out, H/stride, W/stride), rounded up."""
        return self.activation(self.shortcut(images) + self.residual(images))


class SmallResNet(nn.Module):
    """A convolution, stages of residual blocks, the mean over the image, one linear layer.

    Each stage after the first begins by halving the image.

    Args:
        in_channels: The number of channels of the images, C_in.
        num_classes: The number of logits.
        channels: C_out of each stage; their number is the number of stages, ≥ 1.
        blocks: Residual blocks per stage, ≥ 1.
        activation: Name of an activation, see ``cnnexp.models.activation``.
        norm: ``"batch"``, ``"group"`` or ``"none"``.
        dropout: Probability of dropout before the linear layer, in [0, 1).
        init: The initialisation, see ``cnnexp.models.initialise``.

    Raises:
        ValueError: A range is violated or a name is unknown.

    Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition" (2016), section 4.2.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        channels: Sequence[int] = (16, 32, 64),
        blocks: int = 1,
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
        init: str = "he",
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or blocks < 1:
            raise ValueError(
                f"channels must be one or more positive numbers and blocks at least 1, but got "
                f"{list(channels)} and {blocks}"
            )
        check_probability(dropout=dropout)
        self.stem = nn.Sequential(
            *conv_block(in_channels, channels[0], 3, activation=activation, norm=norm)
        )
        stages: list[nn.Module] = []
        c_in = channels[0]
        for stage, c_out in enumerate(channels):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(ResidualBlock(c_in, c_out, stride, activation, norm))
                c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.classifier = nn.Linear(c_in, num_classes)
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for ``images`` (N, in_channels, H, W)."""
        features = torch.flatten(self.pool(self.stages(self.stem(images))), 1)
        return self.classifier(self.dropout(features))
