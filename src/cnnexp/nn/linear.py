"""The linear layer, computed with ``cnnexp.ops``."""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces
from cnnexp.ops.autocast import cast_dtype
from cnnexp.ops.linear import unkept


@replaces(nn.Linear)
class Linear(Layer, nn.Linear):
    """``torch.nn.Linear`` with the backward of ``algorithm``; state dicts are interchangeable."""

    op = "linear"
    recompute = False  # whether ``fuse_blocks`` is to save memory

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, …, C_in) to (N, …, C_out)."""
        if self.recompute and cast_dtype(input) not in (None, self.weight.dtype):
            return unkept(input, self.weight, self.bias)
        return super().forward(input)

    def compute(self, input: Tensor) -> Tensor:
        """Map (N, …, C_in) to (N, …, C_out)."""
        return ops.linear(input, self.weight, self.bias, algorithm=self.algorithm)

    def extra_repr(self) -> str:
        """Describe the layer's settings for ``repr``."""
        return f"{super().extra_repr()}{', recompute=True' if self.recompute else ''}"
