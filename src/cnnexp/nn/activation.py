"""Activation layers that compute with ``cnnexp.ops``.

``inplace=True`` leaves the result in the input, as torch's layers do.
"""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces

__all__ = ["GELU", "Dropout", "LeakyReLU", "ReLU", "Tanh"]


@replaces(nn.ReLU)
class ReLU(Layer, nn.ReLU):
    """``torch.nn.ReLU`` with the backward of ``algorithm``."""

    op = "relu"

    def forward(self, input: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.relu(input, self.inplace, algorithm=self.algorithm)


@replaces(nn.LeakyReLU)
class LeakyReLU(Layer, nn.LeakyReLU):
    """``torch.nn.LeakyReLU`` with the backward of ``algorithm``."""

    op = "leaky_relu"

    def forward(self, input: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.leaky_relu(input, self.negative_slope, self.inplace, algorithm=self.algorithm)


@replaces(nn.GELU)
class GELU(Layer, nn.GELU):
    """``torch.nn.GELU`` with the backward of ``algorithm``."""

    op = "gelu"

    def forward(self, input: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.gelu(input, self.approximate, algorithm=self.algorithm)


@replaces(nn.Tanh)
class Tanh(Layer, nn.Tanh):
    """``torch.nn.Tanh`` with the backward of ``algorithm``."""

    op = "tanh"

    def forward(self, input: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.tanh(input, algorithm=self.algorithm)


@replaces(nn.Dropout)
class Dropout(Layer, nn.Dropout):
    """``torch.nn.Dropout`` with the backward of ``algorithm``."""

    op = "dropout"

    def forward(self, input: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.dropout(input, self.p, self.training, self.inplace, algorithm=self.algorithm)
