"""The linear layer, computed with ``cnnexp.ops``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces
from cnnexp.ops.autocast import cast_dtype
from cnnexp.ops.linear import unkept
from cnnexp.ops.registry import recorded


@replaces(nn.Linear)
class Linear(Layer, nn.Linear):
    """``torch.nn.Linear`` with the backward of ``algorithm``; state dicts are interchangeable."""

    op = "linear"
    recompute = False  # whether ``fuse_blocks`` is to save memory

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, …, C_in) to (N, …, C_out)."""
        cast = self.recompute and cast_dtype(input) not in (None, self.weight.dtype)
        if cast and not recorded():
            return unkept(input, self.weight, self.bias)
        return super().forward(input)

    def compute(self, input: Tensor) -> Tensor:
        """Map (N, …, C_in) to (N, …, C_out)."""
        return ops.linear(input, self.weight, self.bias, algorithm=self.algorithm)

    def extra_repr(self) -> str:
        """Describe the layer's settings for ``repr``."""
        return f"{super().extra_repr()}{', recompute=True' if self.recompute else ''}"


class LinearAct(Linear):
    """``Linear`` that computes the activation behind it, and up to two more such layers, in one op.

    ``fuse_blocks`` makes it of the first layer of a run, for the ``nn.Sequential`` that they stand in; called
    by itself it is a ``Linear``.
    """

    op = "linear_act"
    computes = ("block", "forward")

    def block(
        self, input: Tensor, linears: Sequence[nn.Linear], activations: Sequence[str]
    ) -> Tensor:
        """Map (N, …, C_0) to (N, …, C_L) through ``linears``, of which this is the first, each activated."""
        parameters: Any = [each for layer in linears for each in (layer.weight, layer.bias)]
        names = tuple(activations)
        return ops.linear_act(input, *parameters, activations=names, algorithm=self.algorithm)
