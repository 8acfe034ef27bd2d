"""The quality of a network on some images: accuracy, loss, figures per class, confusion, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix

from cnnexp.training import Classifier
from cnnexp.training.callbacks.pictures import wilson_interval
from cnnexp.training.scores import counted, judged

__all__ = ["Evaluation", "evaluate", "with_weights"]

_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """The figures of one network on some images.

    Attributes:
        images: How many images were evaluated.
        loss: The mean of the loss that the run is judged by; without one of its own, of the softmax
            cross-entropy in nats.
        calibration_error: Expected calibration error in [0, 1]: the difference between confidence and
            accuracy, averaged over 15 equal bins of the confidence (Guo et al., "On Calibration of Modern
            Neural Networks", 2017, section 2).
        confusion: (classes, classes) counts: one row per true class, one column per predicted class.
        metrics: The run's further metrics by name.
    """

    images: int
    loss: float
    calibration_error: float
    confusion: Sequence[Sequence[int]]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """The share of the images that are classified correctly, in [0, 1]."""
        right = sum(row[i] for i, row in enumerate(self.confusion))
        return right / self.images if self.images else math.nan

    def interval(self) -> tuple[float, float]:
        """The ends of the accuracy's 95 % interval for images of this kind (Wilson, 1927)."""
        return wilson_interval(self.accuracy, self.images)

    def by_class(self) -> list[dict[str, float]]:
        """The number of images, precision, recall and F1 of each class; NaN where a denominator is 0."""
        columns = [sum(column) for column in zip(*self.confusion, strict=True)]
        rows = []
        for i, row in enumerate(self.confusion):
            right, images = row[i], sum(row)
            precision = right / columns[i] if columns[i] else math.nan
            recall = right / images if images else math.nan
            f1 = 2 * right / (images + columns[i]) if images + columns[i] else math.nan
            rows.append({"images": images, "precision": precision, "recall": recall, "f1": f1})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """The figures as a dictionary for JSON."""
        low, high = self.interval()
        return {
            "images": self.images,
            "accuracy": self.accuracy,
            "accuracy_95": [low, high],
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            **({"metrics": dict(self.metrics)} if self.metrics else {}),
            "by_class": self.by_class(),
            "confusion": [list(row) for row in self.confusion],
        }


@torch.inference_mode()
def evaluate(
    classifier: Classifier,
    batches: DataLoader[tuple[Tensor, Tensor]],
    loss: nn.Module | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Evaluation:
    """Evaluate ``classifier`` on all ``batches`` of (images (B, C, H, W) uint8, labels (B,)).

    Args:
        classifier: In evaluation mode.
        batches: The images.
        loss: The mean loss of a batch, which counts by its images, as in a training; None for the softmax
            cross-entropy.
        metrics: What else is measured, by name; each is reset first.

    Raises:
        ValueError: There are no images.
    """
    device = classifier.mean.device
    classes = classifier.num_classes
    confusion = MulticlassConfusionMatrix(classes).to(device)
    calibration = MulticlassCalibrationError(classes, n_bins=_BINS).to(device)
    criterion = (loss or nn.CrossEntropyLoss()).to(device)
    others = {name: metric.to(device) for name, metric in (metrics or {}).items()}
    for metric in others.values():
        metric.reset()
    total, whole, count = torch.zeros((), dtype=torch.float64), 0.0, 0
    for pixels, labels in batches:
        labels = labels.to(device)
        logits = classifier(pixels.to(device).float() / 255).float()
        if counts := counted(criterion, labels):
            total += criterion(logits, labels).double().cpu() * counts
            whole += counts
        for metric in others.values():
            metric.update(*judged(logits, labels, classifier.targets))
        confusion.update(logits, labels)
        calibration.update(logits.softmax(1), labels)
        count += labels.size(0)
    if count == 0:
        raise ValueError("there are no images to evaluate on")
    return Evaluation(
        images=count,
        loss=float(total) / whole if whole else math.nan,
        calibration_error=float(calibration.compute()),
        confusion=confusion.compute().tolist(),
        metrics={name: float(metric.compute()) for name, metric in others.items()},
    )


@contextmanager
def with_weights(classifier: Classifier, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give ``classifier`` these ``weights`` (by name; the others stay) inside the context."""
    state = classifier.state_dict()
    before = {n: v.clone() if isinstance(v, Tensor) else v for n, v in state.items()}
    classifier.load_state_dict({**before, **weights})
    try:
        yield
    finally:
        classifier.load_state_dict(before)
