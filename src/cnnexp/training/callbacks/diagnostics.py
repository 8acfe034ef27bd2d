"""Measure gradients, updates and activations during the training, and judge its health."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from cnnexp.diagnostics import (
    DiagnosticsSettings,
    Health,
    Measurement,
    StepLosses,
    StepProbe,
    TracedLayer,
    Verdict,
    measurement_of,
    trace_layers,
)
from cnnexp.training.callbacks.evidence_collector import EvidenceCollector
from cnnexp.training.callbacks.landscape import Landscape
from cnnexp.training.classifier import Classifier
from cnnexp.training.epochs import epoch_of
from cnnexp.training.loggers import MetricsFile, event_writers
from cnnexp.training.non_finite import NonFiniteError
from cnnexp.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)


class Diagnostics(Callback):
    """Log what ``cnnexp.diagnostics.keys`` lists, every so many steps, and say what is wrong.

    Between two measurements only the loss is kept, on the device. A measured step computes what it
    would have computed anyway. The landscape takes passes of its own, in the precision of the weights,
    of the first batch of its step.

    Args:
        settings: How much and how often; not ``off``.
        shape: (C, H, W) of the images.
        classes: Number of classes.
        ranks: The processes of the training.
        facts: Settings of the training that the diagnosis looks at, see ``setting_facts``.

    Attributes:
        health: The verdict so far.
        collector: The evidence for the diagnosis of the training as a whole.
        layers: Those that are measured, from the start of the training on; none with fsdp.
    """

    at_each_step = True

    def __init__(
        self,
        settings: DiagnosticsSettings,
        shape: Sequence[int],
        classes: int,
        ranks: Ranks = ALONE,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._every, self._shape, self._ranks = settings.every, tuple(shape), ranks
        self.collector = EvidenceCollector(classes, facts)
        self.health = Health(
            classes,
            settings.health,
            self.collector.stronger_cause,
            lambda: self.collector.evidence.chance,
        )
        self.layers: list[TracedLayer] = []
        self._losses = StepLosses()
        self._landscape = Landscape(settings, ranks)
        self._validation: dict[str, float] | None = None  # of this epoch
        self._probe: StepProbe | None = None
        self._others: dict[str, Tensor] = {}
        self._step, self._called = 0, False  # whether its gradients were seen

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the layers."""
        assert isinstance(pl_module, Classifier)
        self._losses.to(pl_module.device)
        if isinstance(trainer.strategy, FSDPStrategy):
            log.warning("diagnostics: with fsdp the weights are in pieces; only the loss is judged")
            return
        images = torch.zeros(2, *self._shape, device=pl_module.device)
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            self.layers = trace_layers(pl_module.network, pl_module.normalise(images))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to look, if the step that begins is to be measured."""
        assert isinstance(pl_module, Classifier)
        if batch_idx % trainer.accumulate_grad_batches:  # the step has begun already
            return
        self._drop()
        self._losses.close()
        self._step, self._called = trainer.global_step, False
        if self._step % self._every == 0:
            if self.layers and self._landscape.due(self._step):
                self._others = self._landscape.measure(pl_module, batch, batch_idx, self._step)
            self._probe = StepProbe(pl_module.network, self.layers)
            self._probe.attach()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Read gradients and weights; of an optimiser that calls its closure again, the first time."""
        assert isinstance(pl_module, Classifier)
        if self._called or not self.layers:
            return
        self._called = True
        self._others |= self._landscape.see_gradient(pl_module, self._step)
        if self._probe is not None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            one = torch.ones((), device=pl_module.device)
            if not self._probe.before_step(None if scaler is None else scaler.scale(one)):
                self._drop()  # the step is left out

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Read what the step did to the weights, and judge."""
        assert isinstance(pl_module, Classifier)
        if pl_module.step_loss is not None:
            self._losses.add(pl_module.step_loss, pl_module.share(batch_idx, batch[1]).of)
        if self._probe is None or not (self._called or not self.layers):
            return
        images = self._losses.images
        self._losses.close()
        self._probe.after_step()
        reading = self._probe.read(self._losses.done, **self._others)
        readings = self._ranks.gather(reading)
        measurement = measurement_of(self._step, self.layers, readings, images)
        measurement = measurement.with_landscape(**self._landscape.noise_scale(reading.whole))
        self._losses.clear()
        self._drop()
        self._log(trainer, measurement)
        penalties = {name: float(term) for name, term in pl_module.step_penalties.items()}
        self.collector.measured(measurement, penalties)
        self._tell(trainer, self.health.observe(measurement))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep its figures until the epoch is over."""
        if not trainer.sanity_checking:
            self._validation = logged_metrics(trainer, "val/")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the epoch, if it was validated."""
        if self._validation is None:
            return
        metrics = {**logged_metrics(trainer, "train/"), **self._validation}
        self._validation = None
        self._tell(trainer, self.health.observe_epoch(epoch_of(trainer), metrics))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the verdicts on the training."""
        for verdict in self.health.verdicts:
            passed = f" ({verdict.passed})" if verdict.passed else ""
            log.info("health: %s%s", verdict, passed)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Say where the numbers ended, if that is what ended the training."""
        self._drop()
        if isinstance(exception, NonFiniteError):
            found = exception.finding
            turned = self.health.observe_non_finite(found.step, found.layer, found.evidence)
            self._tell(trainer, turned)

    def _drop(self) -> None:
        if self._probe is not None:
            self._probe.detach()
        self._probe, self._others = None, {}

    def _log(self, trainer: L.Trainer, measurement: Measurement) -> None:
        values = measurement.scalars()
        for logger in trainer.loggers:
            own = {"epoch": trainer.current_epoch} if isinstance(logger, MetricsFile) else {}
            logger.log_metrics({**values, **own}, step=measurement.step)

    def _tell(self, trainer: L.Trainer, turned: Sequence[Verdict]) -> None:
        for verdict in turned:
            text = f"health: {verdict}"
            if verdict.passed:
                text = f"health: {verdict.trouble} {verdict.layer}".rstrip() + f" {verdict.passed}"
            (log.info if verdict.passed else log.warning)("%s", text)
            for board in event_writers(trainer.loggers) if self._ranks.first else ():
                board.add_text("health", text, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """What a training needs to be resumed as if it had not stopped; to be asked of all ranks."""
        steps, batches = (
            (self._ranks.total(each) / self._ranks.count).tolist()
            for each in self._losses.tensors()
        )
        losses = {"steps": steps, "batches": batches, "sizes": self._losses.sizes()}
        return {
            "health": self.health.state_dict(),
            "losses": losses,
            "landscape": self._landscape.state_dict(),
            "validation": self._validation,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.health.load_state_dict(state_dict["health"])
        self._losses.load(state_dict["losses"])
        self._landscape.load_state_dict(state_dict["landscape"])
        self._validation = state_dict["validation"]


def logged_metrics(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    """The metrics that were logged last under ``prefix``, in plain numbers."""
    found = trainer.callback_metrics.items()
    return {name: float(value) for name, value in found if name.startswith(prefix)}
