"""Activation layers that compute with ``cnnexp.ops``.

``inplace=True`` leaves the result in the input, as torch's layers do.
"""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.marks import took_mark
from cnnexp.nn.twins import replaces

__all__ = ["GELU", "LeakyReLU", "ReLU", "Tanh"]


@replaces(nn.ReLU)
class ReLU(Layer, nn.ReLU):
    """``torch.nn.ReLU`` with the backward of ``algorithm``."""

    op = "relu"

    def forward(self, input: Tensor) -> Tensor:
        """Return the result in the shape of ``input``, which may be any."""
        return input if took_mark(input) else super().forward(input)

    def compute(self, input: Tensor) -> Tensor:
        """Return the result in the shape of ``input``, which may be any."""
        return ops.relu(input, self.inplace, algorithm=self.algorithm)


@replaces(nn.LeakyReLU)
class LeakyReLU(Layer, nn.LeakyReLU):
    """``torch.nn.LeakyReLU`` with the backward of ``algorithm``."""

    op = "leaky_relu"

    def compute(self, input: Tensor) -> Tensor:
        """Return the result in the shape of ``input``, which may be any."""
        return ops.leaky_relu(input, self.negative_slope, self.inplace, algorithm=self.algorithm)


@replaces(nn.GELU)
class GELU(Layer, nn.GELU):
    """``torch.nn.GELU`` with the backward of ``algorithm``."""

    op = "gelu"

    def compute(self, input: Tensor) -> Tensor:
        """Return the result in the shape of ``input``, which may be any."""
        return ops.gelu(input, self.approximate, algorithm=self.algorithm)


@replaces(nn.Tanh)
class Tanh(Layer, nn.Tanh):
    """``torch.nn.Tanh`` with the backward of ``algorithm``."""

    op = "tanh"

    def compute(self, input: Tensor) -> Tensor:
        """Return the result in the shape of ``input``, which may be any."""
        return ops.tanh(input, algorithm=self.algorithm)
