"""Settle in which precision a training computes, before the first step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import lightning as L
from lightning.pytorch.plugins.precision import MixedPrecision

from cnnexp.runs import RunFolder
from cnnexp.training.classifier import Classifier
from cnnexp.training.example import example_batch, run_in
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.training_job import TrainingJob
from cnnexp.tuning import PrecisionChoice, StepChoice, choose_precision, multiplies_bfloat16

log = logging.getLogger(__name__)

_FULL = "32-true"
_HALF: Literal["bf16-mixed"] = "bf16-mixed"


class SettledPrecision(NamedTuple):
    """What has been settled.

    Attributes:
        config: The config of the run, with what was chosen.
        step: What was chosen for the layers' gradients with it; None where nothing was measured.
        ratio: The time of a step in bfloat16 by that in float32; None where nothing was measured.
    """

    config: dict[str, Any]
    step: StepChoice | None = None
    ratio: float | None = None


def settle_precision(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks = ALONE
) -> SettledPrecision:
    """Give ``trainer``, which is of float32, the precision of the faster step if ``job`` leaves it open.

    It is measured on the trainer's device together with the algorithms of the layers' gradients; the first
    rank decides for all. Without measuring it stays float32 for a private training, whose norms must be
    exact, and where the device has no instructions for bfloat16.
    """
    if not job.choose_precision:
        return SettledPrecision(dict(job.config))
    choice = ranks.from_first(_measured(job, classifier, trainer, ranks) if ranks.first else None)
    chosen = _HALF if choice is not None and choice.bfloat16 else _FULL
    if chosen == _HALF:
        kind = trainer.strategy.root_device.type
        trainer.strategy.precision_plugin = MixedPrecision(_HALF, kind)
    node = {**job.config.get("accelerator", {}), "chosen_precision": chosen}
    config = {**job.config, "accelerator": node}
    if choice is None or math.isinf(choice.ratio):
        return SettledPrecision(config, choice and choice.step)
    return SettledPrecision(config, choice.step, choice.ratio)


def precision_as_before(job: TrainingJob, folder: RunFolder, ranks: Ranks) -> TrainingJob:
    """``job`` with the precision that its run in ``folder`` chose, if it did, so that nothing is measured."""
    found = (folder.read_config().get("accelerator") or {}) if ranks.first else None
    node: Mapping[str, Any] = ranks.from_first(found)
    chosen = node.get("chosen_precision")
    if not job.choose_precision or chosen is None:
        return job
    kept = {**job.config.get("accelerator", {}), "chosen_precision": chosen}
    return replace(
        job,
        choose_precision=False,
        trainer={**job.trainer, "precision": chosen},
        config={**job.config, "accelerator": kept},
    )


def _measured(
    job: TrainingJob, classifier: Classifier, trainer: L.Trainer, ranks: Ranks
) -> PrecisionChoice | None:
    """What the measurement says; None where there is none. Says the outcome in a line of the log."""
    device = trainer.strategy.root_device
    if job.privacy.private:
        log.info("precision auto: %s, since privacy clips by norms that bfloat16 rounds", _FULL)
        return None
    if not multiplies_bfloat16(device):
        log.info("precision auto: %s, since this %s does not multiply bfloat16", _FULL, device.type)
        return None
    choice = choose_precision(
        classifier.network,
        example_batch(job, classifier, trainer, ranks),
        run_in(trainer.precision_plugin),
        run_in(MixedPrecision(_HALF, device.type)),
        job.backward_layers,
    )
    _say(choice)
    return choice


def _say(choice: PrecisionChoice) -> None:
    if choice.bfloat16:
        log.info("precision auto: %s, the step takes %.2f of float32's", _HALF, choice.ratio)
    elif math.isinf(choice.ratio):
        log.info("precision auto: %s", _FULL)  # why was said
    else:
        log.info(
            "precision auto: %s, in %s the step takes %.2f of float32's", _FULL, _HALF, choice.ratio
        )
