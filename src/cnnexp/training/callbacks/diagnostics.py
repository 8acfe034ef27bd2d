"""Measure gradients, updates and activations as the training goes on, and judge its health."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from cnnexp.diagnostics import (
    DiagnosticsSettings,
    Health,
    Measurement,
    StepProbe,
    TracedLayer,
    Verdict,
    gradient_moments,
    measurement_of,
    noise_scale,
    sharpness,
    trace_layers,
    undisturbed,
)
from cnnexp.training.classifier import Classifier
from cnnexp.training.loggers import MetricsFile
from cnnexp.training.non_finite import NonFiniteError
from cnnexp.training.ranks import ALONE, Ranks

__all__ = ["Diagnostics"]

log = logging.getLogger(__name__)

_DECAY = 0.8  # of the averages that the noise scale is the ratio of


class Diagnostics(Callback):
    """Log what ``cnnexp.diagnostics.keys`` lists, every so many steps, and say what is wrong.

    Between two measurements only the loss is kept, on the device. A measured step computes what it
    would have computed anyway; the landscape takes passes of its own.

    Args:
        settings: How much and how often; not ``off``.
        shape: (C, H, W) of the images.
        classes: Number of classes.
        ranks: The processes of the training.

    Attributes:
        health: The verdict so far.
        layers: Those that are measured, from the start of the training on.
    """

    def __init__(
        self,
        settings: DiagnosticsSettings,
        shape: Sequence[int],
        classes: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self._settings, self._shape, self._ranks = settings, tuple(shape), ranks
        self.health = Health(classes, settings.health)
        self.layers: list[TracedLayer] = []
        self._losses: list[Tensor] = []  # since the last measurement
        self._probe: StepProbe | None = None
        self._step, self._ready = 0, False
        self._others: dict[str, Tensor] = {}
        self._before: Tensor | None = None  # the gradient of the step before a measured one
        self._averages: list[float] | None = None  # of tr Σ and |G|²

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the layers."""
        assert isinstance(pl_module, Classifier)
        self._losses = [loss.to(pl_module.device) for loss in self._losses]
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
        self._step = trainer.global_step
        if self._step % self._settings.every == 0:
            self._others = self._landscape(pl_module, batch, batch_idx) if self._wide() else {}
            self._probe = StepProbe(pl_module.network, self.layers)
            self._probe.attach()

    def _wide(self, ahead: int = 0) -> bool:
        """Whether the present step, or one ahead, looks at the landscape."""
        every = self._settings.every * self._settings.landscape_every
        return self._settings.name == "full" and (self._step + ahead) % every == 0

    def _landscape(
        self, module: Classifier, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> dict[str, Tensor]:
        if not self.layers:
            return {}
        images, targets = module.vary(*batch, batch_idx)
        weight = module.weight_of(batch_idx, batch[1])
        parameters = [p for p in module.network.parameters() if p.requires_grad]
        with undisturbed(module.network):
            moments = gradient_moments(
                module.objective,
                parameters,
                images,
                targets,
                self._settings.noise_parts,
                mean=self._mean,
                ranks=self._ranks.count,
            )
            curvature = sharpness(
                lambda: module.objective(images, targets) * weight,
                parameters,
                mean=self._mean,
                iterations=self._settings.sharpness_iterations,
                seed=self._step,
            )
        found = {"sharpness": torch.tensor(curvature, device=module.device)}
        if moments is not None:
            found |= dict(zip(("variance", "square"), moments, strict=True))
        return found

    def _mean(self, value: Tensor) -> Tensor:
        return self._ranks.total(value) / self._ranks.count

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Read gradients and weights; of an optimiser that calls its closure again, the first time."""
        assert isinstance(pl_module, Classifier)
        if self._probe is not None and not self._ready:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            one = torch.ones((), device=pl_module.device)
            self._ready = self._probe.before_step(None if scaler is None else scaler.scale(one))
            if not self._ready:
                self._drop()
            elif self._before is not None and self._wide():
                self._others["cosine"] = _cosine(self._before, _gradient(pl_module))
        self._before = _gradient(pl_module) if self._wide(ahead=1) and self.layers else None

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
            self._losses.append(pl_module.step_loss)
        if self._probe is None or not self._ready:
            return
        self._probe.after_step()
        reading = self._probe.read(self._losses, **self._others)
        measurement = measurement_of(self._step, self.layers, self._ranks.gather(reading))
        measurement = self._with_noise_scale(measurement, reading.whole)
        self._losses = []
        self._drop()
        self._log(trainer, measurement)
        self._tell(trainer, self.health.observe(measurement))

    def _with_noise_scale(self, measurement: Measurement, read: Any) -> Measurement:
        if "square" not in read:
            return measurement
        now = [read["variance"][0], read["square"][0]]
        before = self._averages or now
        self._averages = [_DECAY * b + (1 - _DECAY) * n for b, n in zip(before, now, strict=True)]
        scale = noise_scale(*self._averages)
        return measurement if scale is None else measurement.with_landscape(noise_scale=scale)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the epoch."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._tell(trainer, self.health.observe_epoch(trainer.current_epoch + 1, metrics))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sum up."""
        verdicts = self.health.verdicts
        if not verdicts:
            log.info("health: nothing conspicuous")
        for verdict in verdicts:
            passed = "" if verdict.until is None else f" (no longer from {verdict.until} on)"
            log.info("health: %s%s", verdict, passed)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Say where the numbers ended, if that is what ended the training."""
        self._drop()
        if isinstance(exception, NonFiniteError):
            found = exception.finding
            step, layer = max(found.step - 1, 0), found.layer
            self._tell(trainer, self.health.observe_non_finite(step, layer, found.evidence))

    def _drop(self) -> None:
        if self._probe is not None:
            self._probe.detach()
        self._probe, self._ready, self._others = None, False, {}

    def _log(self, trainer: L.Trainer, measurement: Measurement) -> None:
        values = measurement.scalars()
        for logger in trainer.loggers:
            own = {"epoch": trainer.current_epoch} if isinstance(logger, MetricsFile) else {}
            logger.log_metrics({**values, **own}, step=measurement.step)

    def _tell(self, trainer: L.Trainer, turned: Sequence[Verdict]) -> None:
        for verdict in turned:
            text = f"health: {verdict}"
            if verdict.until is not None:
                text = f"health: {verdict.trouble} has passed"
            (log.info if verdict.until is not None else log.warning)("%s", text)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger) and self._ranks.first:
                    logger.experiment.add_text("health", text, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """What a training needs to go on as if it had not stopped."""
        losses = torch.stack(self._losses).tolist() if self._losses else []
        return {
            "health": self.health.state_dict(),
            "losses": losses,
            "gradient": self._before,
            "averages": self._averages,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self.health.load_state_dict(state_dict["health"])
        self._losses = [torch.tensor(loss, dtype=torch.float64) for loss in state_dict["losses"]]
        self._before, self._averages = state_dict["gradient"], state_dict["averages"]


def _gradient(module: Classifier) -> Tensor:
    """∂L/∂θ as one vector."""
    grads = [p.grad for p in module.network.parameters() if p.grad is not None]
    return torch.cat([grad.detach().reshape(-1) for grad in grads])


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    one = one.to(other)
    return torch.dot(one, other) / (one.norm() * other.norm())
