"""The linear layer, computed with ``cnnexp.ops``."""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces


@replaces(nn.Linear)
class Linear(Layer, nn.Linear):
    """``torch.nn.Linear`` with the backward of ``algorithm``; state dicts are interchangeable."""

    op = "linear"

    def compute(self, input: Tensor) -> Tensor:
        """Map (N, …, C_in) to (N, …, C_out)."""
        return ops.linear(input, self.weight, self.bias, algorithm=self.algorithm)
