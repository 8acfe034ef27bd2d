"""Dropout computed with ``cnnexp.ops``.

``inplace=True`` leaves the result in the input, as torch's layer does.
"""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces


@replaces(nn.Dropout)
class Dropout(Layer, nn.Dropout):
    """``torch.nn.Dropout`` with the backward of ``algorithm``."""

    op = "dropout"

    def compute(self, input: Tensor) -> Tensor:
        """Return ``input`` with elements dropped in training, in its own shape, which may be any."""
        return ops.dropout(input, self.p, self.training, self.inplace, algorithm=self.algorithm)
