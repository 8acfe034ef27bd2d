"""Run one training from start to result.json."""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from cnnexp import __version__
from cnnexp.nn import layer_algorithms, replace_layers
from cnnexp.runs import RunFolder, collect_provenance, config_hash
from cnnexp.training.backward import loss_layer, settle_backward
from cnnexp.training.callbacks import (
    EpochHistory,
    FirstLayerFilters,
    LearningRate,
    ProgressBar,
    RunStatus,
    TestPictures,
    Throughput,
    lines_above_bar,
)
from cnnexp.training.classifier import Classifier
from cnnexp.training.hparams import log_hparams, log_hparams_metrics
from cnnexp.training.job import TrainingJob
from cnnexp.training.loggers import MetricsFile

__all__ = ["TrainingStopped", "quiet_lightning", "run_training"]

log = logging.getLogger(__name__)

# True here by design: batches are gathered from one tensor, so loader workers would only cost.
_EXPECTED_WARNINGS = (
    ".*does not have many workers which may be a bottleneck.*",
    ".*is smaller than the logging interval Trainer.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",  # lightning 2.6 on torch 2.14, its own affair
)


class TrainingStopped(Exception):
    """The training was interrupted; ``code`` is the exit code that says by what (130, 143)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stopped by {'Ctrl-C' if code == 130 else 'SIGTERM'}")
        self.code = code


def run_training(
    job: TrainingJob, folder: RunFolder, *, progress_bar: bool = False
) -> dict[str, Any]:
    """Train, choose the best epoch by validation, test it once, and write the run folder.

    Args:
        job: What to train.
        folder: An existing folder without a run in it.
        progress_bar: Show one on the terminal.

    Returns:
        The content of result.json.

    Raises:
        TrainingStopped: Interrupted by Ctrl-C or SIGTERM; status.json says ``stopped``.
        Exception: Whatever went wrong; status.json says ``failed`` and why.
    """
    folder.write_status("running", epoch=0, step=0)
    trainer: L.Trainer | None = None
    try:
        with quiet_lightning(), lines_above_bar(progress_bar):
            L.seed_everything(job.seed, workers=True, verbose=False)
            classifier = _classifier(job)
            callbacks = _Callbacks(job, folder, progress_bar)
            loggers: list[Logger] = [MetricsFile(folder), *job.loggers(folder)]
            settings = dict(job.trainer)
            if not len(job.data.val):
                settings["limit_val_batches"] = 0
            if job.full_batch:
                settings["accumulate_grad_batches"] = len(job.data.train_dataloader())
            trainer = L.Trainer(
                **settings,
                default_root_dir=folder.path,
                callbacks=[*callbacks.all, *job.callbacks()],
                logger=loggers,
                enable_progress_bar=progress_bar,
                enable_model_summary=False,
            )
            config = settle_backward(job, classifier, trainer)
            _describe(job, folder, classifier, trainer, config)
            result = _train_and_test(job, folder, classifier, trainer, callbacks)
    except BaseException as error:
        stopped = _stop_code(error)
        # an epoch that status.json counts already is done, even if the Trainer has yet to count it
        progress = {
            "epoch": max(trainer.current_epoch if trainer else 0, folder.read_status()["epoch"]),
            "step": trainer.global_step if trainer else 0,
        }
        if stopped is not None:
            folder.write_status("stopped", **progress, error=str(TrainingStopped(stopped)))
            raise TrainingStopped(stopped) from error
        folder.write_status("failed", **progress, error=f"{type(error).__name__}: {error}")
        raise
    folder.write_result(result)
    folder.write_status("done", epoch=result["epochs"], step=result["steps"])
    log.info(
        "test/acc %.2f %%  test/loss %.4f  (weights of epoch %d)",
        100 * result["test/acc"],
        result["test/loss"],
        result["best_epoch"],
    )
    log.info("run folder %s", folder)
    return result


def _classifier(job: TrainingJob) -> Classifier:
    images = job.data.images
    return Classifier(
        replace_layers(job.network(images), job.backward),
        num_classes=len(images.classes),
        mean=images.mean,
        std=images.std,
        optimizer=job.optimizer,
        scheduler=job.scheduler,
        penalties=job.penalties,
        constraints=job.constraints,
        clip=job.clip,
        augmentations=job.augmentations,
        mixers=job.mixers,
        loss=loss_layer(job.backward),
        train_loss=loss_layer(job.backward, job.label_smoothing),
        seed=job.seed,
        monitor=job.monitor,
        images_per_step=len(job.data.train) if job.full_batch else None,
        channels_last=job.channels_last,
    )


class _Callbacks:
    """Our own callbacks; those that are asked for their figures later by name."""

    def __init__(self, job: TrainingJob, folder: RunFolder, progress_bar: bool) -> None:
        self.throughput = Throughput()
        self.history = EpochHistory()
        self.all: list[Callback] = [
            self.throughput,
            LearningRate(),
            FirstLayerFilters(),
            TestPictures(job.data.images.classes),
            self.history,
            RunStatus(folder),
        ]
        if progress_bar:
            self.all.append(ProgressBar(refresh_rate=10))
        if not job.trainer.get("fast_dev_run"):
            if len(job.data.val) and job.trainer.get("limit_val_batches", 1.0) != 0:
                self.all.append(_checkpoint(folder.best_checkpoint, job.monitor, job.mode))
            self.all.append(_checkpoint(folder.last_checkpoint))


def _checkpoint(file: Path, monitor: str | None = None, mode: str = "min") -> ModelCheckpoint:
    """Keep ``file``: of the epoch with the best ``monitor``, or of the last epoch if None."""
    return ModelCheckpoint(
        file.parent,
        file.stem,
        monitor=monitor,
        mode=mode,
        save_top_k=1,
        # after validation; the last one after the epoch, validated or not
        save_on_train_epoch_end=None if monitor else True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )


def _describe(
    job: TrainingJob,
    folder: RunFolder,
    classifier: Classifier,
    trainer: L.Trainer,
    config: Mapping[str, Any],
) -> None:
    """Say what is about to run, on the terminal and in the run folder."""
    images = job.data.images
    if images.notice:
        log.warning(images.notice)
    device = _device(trainer)
    sizes = [len(job.data.train), len(job.data.val), len(images.test)]
    parameters = _parameters(classifier)
    log.info(
        "cnnexp %s  %s, %s parameters  backward %s  %s %s (train/val/test)  on %s  seed %d",
        __version__,
        type(classifier.network).__name__,
        f"{parameters:,}",
        job.backward,
        images.name,
        "/".join(f"{size:,}" for size in sizes),
        device,
        job.seed,
    )
    folder.write_config(config)
    folder.write_provenance(
        collect_provenance(
            seed=job.seed,
            device=device,
            threads=torch.get_num_threads(),
            dataset={"name": images.name, "checksum": images.checksum, "sizes": sizes},
        )
    )


def _train_and_test(
    job: TrainingJob,
    folder: RunFolder,
    classifier: Classifier,
    trainer: L.Trainer,
    callbacks: _Callbacks,
) -> dict[str, Any]:
    log_hparams(trainer.loggers, job.config)
    start = time.perf_counter()
    trainer.fit(classifier, datamodule=job.data)
    seconds = time.perf_counter() - start
    if trainer.received_sigterm:
        raise TrainingStopped(143)
    epochs, steps = trainer.current_epoch, trainer.global_step
    checkpoints = (folder.best_checkpoint, folder.last_checkpoint)
    chosen = next((file for file in checkpoints if file.exists()), None)
    (test,) = trainer.test(
        classifier,
        datamodule=job.data,
        ckpt_path=chosen,
        verbose=False,
        weights_only=True if chosen else None,
    )
    best = callbacks.history.best(job.monitor, job.mode)
    last = callbacks.history.last
    rates = callbacks.throughput.images_per_second
    result = {
        "status": "done",
        "dataset": job.data.images.name,
        "backward": job.backward,
        "backward/layers": layer_algorithms(classifier.network),
        "test/acc": round(test["test/acc"], 6),
        "test/loss": test["test/loss"],
        "val/acc": round(best["val/acc"], 6) if "val/acc" in best else None,
        "val/loss": best.get("val/loss"),
        "train/loss": last.get("train/loss"),
        "best_epoch": int(best.get("epoch", 0)),
        "epochs": epochs,
        "steps": steps,
        "seconds_fit": round(seconds, 2),
        "images_per_second": round(statistics.mean(rates), 1) if rates else None,
        "parameters": _parameters(classifier),
        "seed": job.seed,
        "config_hash": config_hash(job.config),
    }
    log_hparams_metrics(trainer.loggers, result, steps)
    for logger in trainer.loggers:
        logger.finalize("success")
    return result


def _parameters(classifier: Classifier) -> int:
    return sum(p.numel() for p in classifier.network.parameters() if p.requires_grad)


def _device(trainer: L.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _stop_code(error: BaseException) -> int | None:
    """130 for Ctrl-C, 143 for SIGTERM, None if ``error`` is a failure."""
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    if isinstance(error, TrainingStopped):
        return error.code
    if isinstance(error, SIGTERMException):
        return 143
    # Lightning turns a KeyboardInterrupt into SystemExit(1) once it has cleaned up
    interrupted = isinstance(error.__context__, KeyboardInterrupt)
    return 130 if isinstance(error, KeyboardInterrupt) or interrupted else None


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep back what Lightning says of itself and of what is as it should be."""
    loggers: Sequence[logging.Logger] = [
        logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
