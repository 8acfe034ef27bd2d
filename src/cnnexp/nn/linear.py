"""The linear layer and the loss of a classifier, computed with ``cnnexp.ops``."""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces

__all__ = ["CrossEntropyLoss", "Linear"]


@replaces(nn.Linear)
class Linear(Layer, nn.Linear):
    """``torch.nn.Linear`` with the backward of ``algorithm``; state dicts are interchangeable."""

    op = "linear"

    def forward(self, input: Tensor) -> Tensor:
        """(N, …, C_in) → (N, …, C_out)."""
        return ops.linear(input, self.weight, self.bias, algorithm=self.algorithm)


@replaces(nn.CrossEntropyLoss)
class CrossEntropyLoss(Layer, nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss`` with the backward of ``algorithm``."""

    op = "cross_entropy"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C, …) and classes (N, …) or probabilities (N, C, …) → the loss."""
        return ops.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            algorithm=self.algorithm,
        )
