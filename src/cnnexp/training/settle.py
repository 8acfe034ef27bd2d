"""Settle, before the first step, what a training's config leaves to measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import lightning as L

from cnnexp.runs import RunFolder
from cnnexp.training.backward import settle_backward
from cnnexp.training.classifier import Classifier
from cnnexp.training.compiled import compile_as_before, compile_config, settle_compile
from cnnexp.training.precision import precision_as_before, settle_precision
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.training_job import TrainingJob


class Settlement(NamedTuple):
    """All that has been settled.

    Attributes:
        config: The config of the run, with what was chosen.
        ratios: The times that were measured, and whether the network is compiled, by their names in
            provenance.json.
    """

    config: dict[str, Any]
    ratios: Mapping[str, float]


def settle(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks = ALONE
) -> Settlement:
    """Give ``trainer`` its precision and the network the algorithms of its gradients, and compile it."""
    precision = settle_precision(job, classifier, trainer, ranks)
    job = replace(job, config=precision.config)
    backward = settle_backward(job, classifier, trainer, ranks, precision.step)
    ratios = {"step_ratio": backward.step_ratio, "precision_ratio": precision.ratio}
    compiled = settle_compile(replace(job, config=backward.config), classifier, trainer, ranks)
    ratios |= {"compile_ratio": compiled.ratio, **classifier.compile_facts}
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    return Settlement(compiled.config, known)


def as_before(job: TrainingJob, folder: RunFolder, ranks: Ranks) -> TrainingJob:
    """``job`` with what its run in ``folder`` chose, if it did, so that nothing is measured."""
    job = precision_as_before(job, folder, ranks)
    return compile_as_before(job, compile_config(folder, ranks))
