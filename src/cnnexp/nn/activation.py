"""Activation layers that compute with ``cnnexp.ops``.

``inplace=True`` leaves the result in the input, as torch's layers do.
"""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.marks import has_mark_for_relu
from cnnexp.nn.twins import replaces
from cnnexp.ops.registry import recorded
from cnnexp.ops.relu import relu_of_sum

__all__ = ["GELU", "LeakyReLU", "ReLU", "Tanh"]


@replaces(nn.ReLU)
class ReLU(Layer, nn.ReLU):
    """``torch.nn.ReLU`` with the backward of ``algorithm``."""

    op = "relu"
    recompute = False  # whether ``fuse_blocks`` found that sums it reads can be computed again

    def forward(self, input: Tensor) -> Tensor:
        """Return the result in the shape of ``input``, which may be any."""
        if has_mark_for_relu(input):
            return input
        again = self.recompute and not recorded()
        return relu_of_sum(input, self.inplace) if again else super().forward(input)

    def compute(self, input: Tensor) -> Tensor:
        """Return the result in the shape of ``input``, which may be any."""
        return ops.relu(input, self.inplace, algorithm=self.algorithm)

    def extra_repr(self) -> str:
        """Describe the layer's settings for ``repr``."""
        return f"{super().extra_repr()}{', recompute=True' if self.recompute else ''}"


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
