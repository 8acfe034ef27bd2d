"""What a network is judged by beside its loss, by what its targets are."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

__all__ = ["batch_score", "judged", "score_metric", "score_name"]


def score_name(targets: str) -> str:
    """``acc`` for classes and labels, ``mae`` (mean absolute error) for numbers."""
    return "mae" if targets == "numbers" else "acc"


def score_metric(targets: str, outputs: int) -> Metric:
    """The score over an epoch, of :func:`judged` outputs.

    Args:
        targets: ``classes`` (the share of the images that are right), ``labels`` (the share of all labels
            that are right) or ``numbers`` (the mean absolute error).
        outputs: How many the network has.
    """
    if targets == "classes":
        return MulticlassAccuracy(outputs, average="micro")
    return MeanAbsoluteError() if targets == "numbers" else BinaryAccuracy()


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
