"""Run a learning-rate range test: the training of a job, but with a rising rate and nothing kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from cnnexp.lr_range.curve import LossCurve, Ramp
from cnnexp.training import Classifier, TrainingJob, make_classifier, quiet_lightning
from cnnexp.training.batch_size import settle_batch_size
from cnnexp.training.lightning_internals import leave_signals_alone
from cnnexp.training.settle import settle
from cnnexp.training.trainer_settings import lightning_settings, overfits

# what says how long a training is, what it validates, and what it writes
_OF_A_WHOLE_TRAINING = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "fast_dev_run", "profiler"),
    *("val_check_interval", "check_val_every_n_epoch", "limit_val_batches", "limit_test_batches"),
    *("num_sanity_val_steps", "log_every_n_steps", "enable_progress_bar"),
)


class RangeTestError(Exception):
    """A job whose learning rate cannot be tested; the message says why."""


def run_range_test(job: TrainingJob, ramp: Ramp) -> LossCurve:
    """Train as ``job`` does from its first step on, but by the rates of ``ramp``, until the loss diverges.

    Weights, batches, their random changes, the regularisers' part in a step, precision and algorithms are
    those of the job. Its schedule and its callbacks are left out, and so are validation and test.
    A parameter group whose rate is a multiple of the optimiser's stays that multiple of it. A warm-up that
    the optimiser has of its own (``warmup_steps``) is left out. No file is written.

    Raises:
        RangeTestError: See :func:`check_testable`.
    """
    check_testable(job)
    trainer_settings = {k: v for k, v in job.trainer.items() if k not in _OF_A_WHOLE_TRAINING}
    job = replace(job, scheduler=None, trainer=trainer_settings)
    job = settle_batch_size(job)
    rising = _RisingRate(ramp)
    with quiet_lightning():
        L.seed_everything(job.seed, workers=True, verbose=False)
        job.data.share_with(0, 1)
        job.data.repeat_first_epoch(overfits(job))
        job.data.start_at(0, 0)
        classifier = make_classifier(job, job.data.images)
        settings: dict[str, Any] = {**lightning_settings(job, Path()), "limit_val_batches": 0}
        trainer = L.Trainer(
            **settings,
            max_epochs=-1,
            max_steps=ramp.steps + 1,  # the loss after the last step is that of one more
            callbacks=[rising],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        leave_signals_alone(trainer)
        trainer.precision_plugin.convert_module(classifier)
        settle(job, classifier, trainer)
        try:
            trainer.fit(classifier, datamodule=job.data)
        except SystemExit as end:  # what Lightning makes of Ctrl-C once it has cleaned up
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise
    return rising.curve


def check_testable(job: TrainingJob) -> None:
    """See whether ``job`` has a learning rate that can be tested; loads its data.

    Raises:
        RangeTestError: It has none, is private or is of several processes.
    """
    if job.parallel is not None:
        raise RangeTestError(
            "accelerator: the range test is of one process, whose whole batches give the same gradients; "
            "use accelerator=cpu or gpu, with accelerator.devices=1"
        )
    if job.privacy.private:
        raise RangeTestError(
            "privacy=dp_sgd: a range test trains on the private images, for which no account pays; test on "
            "public images with privacy=none, or compare rates in a search, whose trainings are counted"
        )
    images = job.data.images  # loaded for real, whoever is the first to ask
    with torch.device("meta"):
        optimizer = job.optimizer(job.network(images))
    if not _base_rate(optimizer):
        raise RangeTestError(
            f"optimizer: {type(optimizer).__name__} has no learning rate above 0 that could be raised"
        )


def _base_rate(optimizer: Optimizer) -> float:
    """The learning rate of the optimiser, of which those of its groups are multiples; 0 if it has none."""
    return float(optimizer.defaults.get("lr") or 0.0)


class _RisingRate(Callback):
    """Give the optimiser the rates of ``ramp``, and keep the losses until these diverge."""

    at_each_step = True

    def __init__(self, ramp: Ramp) -> None:
        self.curve, self._ramp = LossCurve(), ramp
        self._multiples: list[float] = []
        self._losses: list[tuple[float, int]] = []  # of the batches of this step, with their sizes
        self._step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        base = _base_rate(optimizer)
        self._multiples = [float(group["lr"]) / base for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            if "warmup_steps" in group:  # schedule-free ones: their rate would be another than ours
                group["warmup_steps"] = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # accumulates
            return
        self._step = trainer.global_step
        rate = self._ramp.rate(min(self._step, self._ramp.steps - 1))
        (optimizer,) = trainer.optimizers
        for group, multiple in zip(optimizer.param_groups, self._multiples, strict=True):
            group["lr"] = rate * multiple

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Classifier)
        assert pl_module.step_loss is not None
        self._losses.append((float(pl_module.step_loss), len(batch[1])))
        if trainer.global_step == self._step:
            return
        images = sum(size for _, size in self._losses)
        loss = sum(each * size for each, size in self._losses) / images
        self._losses.clear()
        if self._step > 0:  # a loss is computed before the step: it is what the one before led to
            self.curve.add(self._ramp.rate(self._step - 1), loss)
            trainer.should_stop = trainer.should_stop or self.curve.diverged
