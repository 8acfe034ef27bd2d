"""Label smoothing: no target is quite certain."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from cnnexp.regularization.regularizer import Regularizer


@dataclass
class LabelSmoothing(Regularizer):
    """Train towards (1 − ``epsilon``) · one-hot + ``epsilon`` / classes; validate by the labels.

    Args:
        epsilon: ε in [0, 1]; 0 changes nothing, 1 makes all targets even. 0.1 is usual.

    Raises:
        ValueError: ``epsilon`` is out of range.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016), section 7.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import LabelSmoothing
        >>> LabelSmoothing(0.1).loss(torch.nn.CrossEntropyLoss()).label_smoothing
        0.1
    """

    name = "label_smoothing"

    epsilon: float

    def __post_init__(self) -> None:
        self.require(0 <= self.epsilon <= 1, "epsilon", "between 0 and 1")

    def loss(self, loss: nn.Module) -> nn.Module:
        """A copy of ``loss``, a cross-entropy, whose targets are smoothed.

        Raises:
            TypeError: ``loss`` is no ``torch.nn.CrossEntropyLoss``.
        """
        if not isinstance(loss, nn.CrossEntropyLoss):
            raise TypeError(
                f"regularization.label_smoothing: smooths the targets of a torch.nn.CrossEntropyLoss, "
                f"not of {type(loss).__name__}"
            )
        smoothed = copy.deepcopy(loss)
        smoothed.label_smoothing = self.epsilon
        return smoothed
