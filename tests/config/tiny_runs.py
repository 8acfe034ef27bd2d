"""The smallest run, in this process, and a callback that notes what goes on in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.runs import RunFolder
from cnnexp.training import TrainingJob, run_training

BATCHES = 4  # of training an epoch; 2 of validation and 2 of test
TINY = {
    "data": "synthetic",
    "data.size": "80",
    "data.image_size": "8",
    "data.val_size": "16",
    "data.batch_size": "16",
    "data.eval_batch_size": "8",
    "model": "tiny",
    "model.channels": "[2,2]",
    "backward": "native",
    "accelerator": "cpu",
    "diagnostics": "off",
    "logger": "csv",
    "trainer.max_epochs": "2",
    "trainer.log_every_n_steps": "1",
}
STOCK = "lightning.pytorch.callbacks."


@dataclass
class Seen:
    """What :class:`Spy` notes, in the order in which it happens."""

    train: list[float] = field(default_factory=list)  # each batch by the sum of its pixels
    loaders: list[int] = field(default_factory=list)  # each epoch's, by its identity
    validation: int = 0  # batches
    sanity: int = 0
    test: list[bool] = field(default_factory=list)  # each batch: in inference mode
    gradients: list[torch.Tensor] = field(default_factory=list)  # each step's, as it was made with
    weights: list[dict[str, torch.Tensor]] = field(default_factory=list)  # after each step
    flags: dict[str, Any] = field(default_factory=dict)  # torch's settings within a step


class Spy(Callback):
    """Note it in ``Spy.seen``, which each run begins anew; fail after ``fail_at`` batches, if not 0."""

    seen: ClassVar[Seen] = Seen()

    def __init__(self, fail_at: int = 0) -> None:
        self._fail_at = fail_at
        Spy.seen = Seen()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.loaders.append(id(trainer.train_dataloader))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.seen.train.append(float(batch[0].double().sum()))
        self.seen.flags = {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
            "anomaly": torch.is_anomaly_enabled(),
        }

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        grads = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.seen.gradients.append(torch.cat(grads).clone())
        state = pl_module.state_dict()
        self.seen.weights.append({k: v.clone() for k, v in state.items()})
        if self._fail_at and len(self.seen.train) == self._fail_at:
            raise RuntimeError("as asked for")

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking:
            self.seen.sanity += 1
        else:
            self.seen.validation += 1

    def on_test_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.seen.test.append(torch.is_inference_mode_enabled())


@dataclass
class Run:
    """A run that has ended well."""

    folder: RunFolder
    result: dict[str, Any]
    seen: Seen

    def values(self, name: str) -> list[float]:
        """Those of one metric in metrics.csv."""
        return [row["value"] for row in self.folder.read_metrics() if row["name"] == name]

    def names(self) -> set[str]:
        """Of the metrics in metrics.csv."""
        return {row["name"] for row in self.folder.read_metrics()}


def _small(overrides: Sequence[str]) -> list[str]:
    """The settings of ``TINY`` that ``overrides`` leave, without those of the data if they choose other."""
    keys = {override.lstrip("+").partition("=")[0] for override in overrides}
    if "data" in keys:
        keys |= {"data.size", "data.image_size"}
    return [f"{key}={value}" for key, value in TINY.items() if key not in keys]


def tiny_job(*overrides: str, spy: str = "") -> TrainingJob:
    """The smallest training with ``overrides``, checked, as a command's is."""
    small = _small(overrides)
    watched = ["+callbacks.spy._target_=tests.config.tiny_runs.Spy", *([spy] if spy else [])]
    composed = Composer("train").compose([*small, *overrides, *watched])
    job = build_job(plain_config(composed), ("tests.",))
    check_job(job, ("tests.",))
    return job


def checked(*overrides: str) -> None:
    """Check that training without the spy, and run nothing."""
    small = _small(overrides)
    check_job(build_job(plain_config(Composer("train").compose([*small, *overrides]))))


def tiny_run(folder: Path, *overrides: str, spy: str = "") -> Run:
    """Run it in ``folder``/run."""
    job = tiny_job(*overrides, spy=spy)
    run = RunFolder(folder / "run")
    run.path.mkdir()
    result = run_training(job, run)
    return Run(run, result, Spy.seen)


def stock(name: str, **arguments: str) -> list[str]:
    """The overrides that add Lightning's callback ``name`` as ``callbacks.x``."""
    return [
        f"+callbacks.x._target_={STOCK}{name}",
        *(f"+callbacks.x.{key}={value}" for key, value in arguments.items()),
    ]
