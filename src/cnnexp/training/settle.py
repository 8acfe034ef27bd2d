"""Settle, before the first step, what a training's config leaves to measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import lightning as L

from cnnexp.training.backward import settle_backward
from cnnexp.training.classifier import Classifier
from cnnexp.training.precision import settle_precision
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.training_job import TrainingJob


class Settlement(NamedTuple):
    """All that has been settled.

    Attributes:
        config: The config of the run, with what was chosen.
        ratios: The times that were measured, by their names in provenance.json.
    """

    config: dict[str, Any]
    ratios: Mapping[str, float]


def settle(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks = ALONE
) -> Settlement:
    """Give ``trainer`` its precision and the network the algorithms of its gradients."""
    precision = settle_precision(job, classifier, trainer, ranks)
    job = replace(job, config=precision.config)
    backward = settle_backward(job, classifier, trainer, ranks, precision.step)
    ratios = {"step_ratio": backward.step_ratio, "precision_ratio": precision.ratio}
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    return Settlement(backward.config, known)
