"""Say whether a training learns and, if not, why: at the start, after each epoch, and at the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from cnnexp.diagnostics import Diagnosis
from cnnexp.training.callbacks.diagnostics import Diagnostics, logged_metrics
from cnnexp.training.callbacks.evidence_collector import EvidenceCollector
from cnnexp.training.classifier import Classifier
from cnnexp.training.loggers import event_writers
from cnnexp.training.non_finite import NonFiniteError
from cnnexp.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)


class _ValidationListener(Callback):
    """Give the network's answers to the validation images to the collector of evidence."""

    def __init__(self, collector: EvidenceCollector) -> None:
        self._collector = collector
        self._validation: dict[str, float] = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to the network's answers."""
        assert isinstance(pl_module, Classifier)
        if not trainer.sanity_checking:
            self._collector.validation_begins(pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compare the answers with the labels."""
        self._collector.validated(batch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the figures until the epoch is over."""
        if not trainer.sanity_checking:
            self._collector.validation_ends()
            self._validation = logged_metrics(trainer, "val/")


class Judge(_ValidationListener):
    """Judge the training by the evidence that ``diagnostics`` and the validations give.

    It changes nothing. What is said at the end is also in result.json, under ``diagnosis``.

    Args:
        diagnostics: The callback that measures; it stands before this one.
        every: Steps of the optimiser between two measurements.
        ranks: The processes of the training.
    """

    at_each_step = True

    def __init__(self, diagnostics: Diagnostics, every: int, ranks: Ranks = ALONE) -> None:
        super().__init__(diagnostics.collector)
        self._diagnostics, self._every, self._ranks = diagnostics, every, ranks
        self._judged = 0  # steps at which the first steps were judged

    @property
    def diagnosis(self) -> Diagnosis:
        """The verdict so far."""
        return self._collector.diagnosis(self._troubles())

    @property
    def evidence(self) -> dict[str, Any]:
        """What the verdict is based on, in plain types."""
        return self._collector.evidence.as_dict()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at data, network and settings, and name what is wrong with them."""
        assert isinstance(pl_module, Classifier)
        resumed = bool(self._collector.evidence.facts)
        self._collector.start(trainer, pl_module, self._diagnostics.layers)
        found = None if resumed else self._collector.at_once()
        for finding in found.findings if found is not None else ():
            self._say(trainer, [f"verdict: before the first step: {finding}"])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at the labels of a batch that is measured."""
        if trainer.global_step % self._every == 0:
            self._collector.see_batch(batch[1])

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Once after a hundred steps of a first epoch that is longer: judge by the loss alone."""
        evidence = self._collector.evidence
        if self._judged or evidence.epochs or evidence.steps <= 100:
            return
        self._judged = evidence.steps
        self._speak(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the epoch."""
        metrics = {**logged_metrics(trainer, "train/"), **self._validation}
        self._collector.evidence.add_epoch(metrics)
        self._validation = {}
        self._speak(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the verdict, if there is anything to say."""
        self._collector.evidence.steps = max(self._collector.evidence.steps, trainer.global_step)
        found = self.diagnosis
        if not found.healthy:
            self._say(trainer, [f"verdict: {line}" for line in found.lines()])
        elif not self._diagnostics.health.verdicts:
            log.info("health: nothing conspicuous in %d steps", trainer.global_step)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Note where the numbers ended, if that is what ended the training."""
        self._collector.validation_ends()
        if isinstance(exception, NonFiniteError):
            found = exception.finding
            evidence = self._collector.evidence
            evidence.steps = max(evidence.steps, found.step)
            evidence.non_finite = {
                "step": found.step,
                "layer": found.layer,
                "evidence": found.evidence,
            }
            self._say(trainer, [f"verdict: {line}" for line in self.diagnosis.lines()])

    def _troubles(self) -> Sequence[dict[str, Any]]:
        return [verdict.as_dict() for verdict in self._diagnostics.health.verdicts]

    def _speak(self, trainer: L.Trainer) -> None:
        found = self._collector.midway(self._troubles())
        if found is not None:
            first, *_ = found.findings
            self._say(trainer, [f"verdict: so far {found.headline}", f"verdict: {first}"])

    def _say(self, trainer: L.Trainer, lines: Sequence[str]) -> None:
        for line in lines:
            log.warning("%s", line)
            for board in event_writers(trainer.loggers) if self._ranks.first else ():
                board.add_text("verdict", line, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """What a training needs to be resumed as if it had not stopped."""
        own = {"validation": self._validation, "judged": self._judged}
        return {**self._collector.state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._collector.load_state_dict(state_dict)
        self._validation, self._judged = state_dict["validation"], state_dict["judged"]
