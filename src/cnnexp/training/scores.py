"""What a network is judged by beside its loss, by what its targets are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import Metric

__all__ = ["Accuracy", "batch_score", "counted", "judged", "score_metric", "score_name"]


def score_name(targets: str) -> str:
    """``acc`` for classes and labels, ``mae`` (mean absolute error) for numbers."""
    return "mae" if targets == "numbers" else "acc"


class Accuracy(Metric):
    """The share of images whose greatest logit is that of their label.

    ``torchmetrics.classification`` has the same, and imports a hundred metrics and three libraries with it.
    """

    right: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for count in ("right", "images"):
            self.add_state(count, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of logits (N, num_classes) and labels (N,)."""
        self.right += (logits.argmax(1) == labels).sum()
        self.images += labels.size(0)

    def compute(self) -> Tensor:
        """In [0, 1]; NaN before the first image."""
        return self.right.float() / self.images


def score_metric(targets: str) -> Metric:
    """The score over an epoch, of :func:`judged` outputs.

    Args:
        targets: ``classes`` (the share of the images that are right), ``labels`` (the share of all labels
            that are right) or ``numbers`` (the mean absolute error).
    """
    if targets == "classes":
        return Accuracy()
    # late, since with them come all metrics, which takes a second
    if targets == "numbers":
        from torchmetrics.regression import MeanAbsoluteError

        return MeanAbsoluteError()
    from torchmetrics.classification import BinaryAccuracy

    return BinaryAccuracy()


def batch_score(outputs: Tensor, wanted: Tensor, targets: str) -> Tensor:
    """The score of one batch: outputs (N, K), and classes (N,) or labels or numbers (N, K)."""
    if targets == "classes":
        return (outputs.argmax(1) == wanted).float().mean()
    if targets == "numbers":
        return (outputs - wanted).abs().mean()
    return ((outputs > 0) == (wanted > 0.5)).float().mean()


def judged(outputs: Tensor, wanted: Tensor, targets: str) -> tuple[Tensor, Tensor]:
    """Outputs and targets as metrics take them: probabilities with classes or labels, numbers as they are."""
    if targets == "classes":
        return outputs.float().softmax(1), wanted
    if targets == "numbers":
        return outputs.float(), wanted
    return outputs.float().sigmoid(), (wanted > 0.5).to(torch.int64)


def counted(loss: nn.Module, labels: Tensor) -> float:
    """What a batch counts for in the mean of several: its images, or where classes have weights, theirs.

    The cross-entropy, and a loss whose class says ``mean_by_weights = True``, is divided by the sum of the
    weights, so that a mean by images would depend on which images are together in a batch.
    """
    weight = getattr(loss, "weight", None)
    known = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss))
    by_weights = getattr(loss, "mean_by_weights", known) and labels.dim() == 1
    if not isinstance(weight, Tensor) or not by_weights or labels.is_floating_point():
        return labels.size(0)
    return float(weight[labels].sum())
