"""Losses computed with ``cnnexp.ops``; ``targets`` says of which targets each is."""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces


@replaces(nn.CrossEntropyLoss)
class CrossEntropyLoss(Layer, nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss`` with the backward of ``algorithm``."""

    op = "cross_entropy"
    targets = "classes"

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        algorithm: str = "direct",
    ) -> None:
        given = (weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        super().__init__(*given, algorithm=algorithm)

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


class FocalLoss(Layer, nn.Module):
    """The focal loss of classes, see :func:`cnnexp.ops.focal_loss`; torch has no such layer.

    Args:
        weight: Of each class, (C,), or None for 1.
        gamma: γ ≥ 0; 0 is the cross-entropy, 2 is usual.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        algorithm: A name from ``cnnexp.ops.algorithm_names("focal_loss")``.

    Raises:
        ValueError: ``gamma`` is negative.
    """

    op = "focal_loss"
    targets = "classes"
    mean_by_weights = True
    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        gamma: float = 2.0,
        reduction: str = "mean",
        algorithm: str = "direct",
    ) -> None:
        super().__init__(algorithm=algorithm)
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, but got {gamma}")
        self.register_buffer("weight", weight)
        self.gamma, self.reduction = gamma, reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss, for logits (N, C, …) and classes (N, …)."""
        return ops.focal_loss(
            input, target, self.weight, self.gamma, self.reduction, algorithm=self.algorithm
        )


@replaces(nn.BCEWithLogitsLoss)
class BCEWithLogitsLoss(Layer, nn.BCEWithLogitsLoss):
    """``torch.nn.BCEWithLogitsLoss`` with the backward of ``algorithm``."""

    op = "binary_cross_entropy_with_logits"
    targets = "labels"

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        algorithm: str = "direct",
    ) -> None:
        given = (weight, size_average, reduce, reduction, pos_weight)
        super().__init__(*given, algorithm=algorithm)

    def compute(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits and targets in 0…1, of one shape: a scalar, or that shape."""
        return ops.binary_cross_entropy_with_logits(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            algorithm=self.algorithm,
        )


@replaces(nn.MSELoss)
class MSELoss(Layer, nn.MSELoss):
    """``torch.nn.MSELoss`` with the backward of ``algorithm``."""

    op = "mse_loss"
    targets = "numbers"

    def compute(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of two tensors of one shape: a scalar, or that shape."""
        return ops.mse_loss(input, target, reduction=self.reduction, algorithm=self.algorithm)


@replaces(nn.HuberLoss)
class HuberLoss(Layer, nn.HuberLoss):
    """``torch.nn.HuberLoss`` with the backward of ``algorithm``."""

    op = "huber_loss"
    targets = "numbers"

    def compute(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of two tensors of one shape: a scalar, or that shape."""
        return ops.huber_loss(input, target, self.reduction, self.delta, algorithm=self.algorithm)
