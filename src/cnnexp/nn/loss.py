"""The loss of a classifier, computed with ``cnnexp.ops``."""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces


@replaces(nn.CrossEntropyLoss)
class CrossEntropyLoss(Layer, nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss`` with the backward of ``algorithm``."""

    op = "cross_entropy"

    def compute(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss, for logits (N, C, …) and classes (N, …) or probabilities (N, C, …).

        It is a scalar, or (N, …) with ``reduction="none"``.
        """
        return ops.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            algorithm=self.algorithm,
        )
