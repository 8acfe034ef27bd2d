"""Put a training together: classifier, callbacks, loggers, Trainer."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from cnnexp.data import ImageSet
from cnnexp.nn import replace_layers
from cnnexp.runs import RunFolder
from cnnexp.training.backward import loss_layer
from cnnexp.training.callbacks import (
    Checkpoints,
    Diagnostics,
    EpochHistory,
    FirstLayerFilters,
    LearningRate,
    NonFiniteGuard,
    ProgressBar,
    RunStatus,
    TestPictures,
    Throughput,
    TrainingPictures,
)
from cnnexp.training.checkpoints import CheckpointFiles
from cnnexp.training.classifier import Classifier
from cnnexp.training.job import TrainingJob
from cnnexp.training.loggers import MetricsFile
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.stopping import StopSignals

__all__ = ["Assembly", "assemble", "make_classifier", "quiet_lightning"]

log = logging.getLogger(__name__)

# True here by design: batches are gathered from one tensor, so loader workers would only cost.
_EXPECTED_WARNINGS = (
    ".*does not have many workers which may be a bottleneck.*",
    ".*is smaller than the logging interval Trainer.*",
    ".*your dataloader is not resumable.*",  # its order is a function of seed and epoch
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # what is logged is every rank's
    ".*The `srun` command is available on your system but is not used.*",  # SLURM need not be meant
    ".*Grad strides do not match bucket view strides.*",  # of kernels with one input channel
    ".*Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",  # diagnostics=off
    ".*isinstance\\(treespec, LeafSpec\\).*",  # lightning 2.6 on torch 2.14, its own affair
)


@dataclass
class Assembly:
    """What trains, and the callbacks that are asked for their figures afterwards."""

    classifier: Classifier
    trainer: L.Trainer
    throughput: Throughput
    history: EpochHistory
    checkpoints: Checkpoints
    guard: NonFiniteGuard
    diagnostics: Diagnostics | None = None


def assemble(
    job: TrainingJob,
    folder: RunFolder,
    signals: StopSignals,
    *,
    progress_bar: bool = False,
    resume: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Assembly:
    """Make all that ``job`` needs to train, once the seed is set.

    Args:
        job: What to train.
        folder: The run folder.
        signals: Where signals ask for a stop.
        progress_bar: Show one on the terminal.
        resume: The ``"cnnexp"`` part of the checkpoint to go on from.
        ranks: The processes of the training.
    """
    job.data.share_with(ranks.rank, ranks.count)
    classifier = make_classifier(job, job.data.images, ranks)
    validates = len(job.data.val) and job.trainer.get("limit_val_batches", 1.0) != 0
    guard = NonFiniteGuard(folder, job.on_nan, job.data.members, ranks=ranks)
    checkpoints = Checkpoints(
        folder,
        monitor=job.monitor if validates else None,
        mode=job.mode,
        every_n_steps=job.checkpoint_steps,
        signals=signals,
        resume=resume,
        check=guard.before_checkpoint,
        identity=job.identity,
        keep=not job.trainer.get("fast_dev_run"),
        ranks=ranks,
    )
    throughput, history = Throughput(), EpochHistory()
    diagnostics = _diagnostics(job, ranks)
    full = job.diagnostics.name == "full"
    callbacks: list[Callback] = [
        throughput,
        guard,
        *diagnostics,
        LearningRate(),
        FirstLayerFilters(),
        *(
            TrainingPictures(each, job.data, folder, full=full)
            for each in diagnostics
            if ranks.first
        ),
        TestPictures(job.data.images.classes, ranks=ranks, embedding=full),
        history,
        RunStatus(folder),
        *([ProgressBar(refresh_rate=10)] if progress_bar and ranks.first else []),
        checkpoints,
    ]
    loggers: list[Logger] = [MetricsFile(folder), *job.loggers(folder)]
    settings = dict(job.trainer)
    if not len(job.data.val):
        settings["limit_val_batches"] = 0
    if job.full_batch:
        settings["accumulate_grad_batches"] = len(job.data.train_dataloader())
    if job.parallel is not None:
        settings |= {
            "devices": job.parallel.devices,
            "num_nodes": job.parallel.nodes,
            "strategy": job.parallel.strategy(),
            "use_distributed_sampler": False,  # each batch is cut, not the data set
        }
    trainer = L.Trainer(
        **settings,
        default_root_dir=folder.path,
        callbacks=[*callbacks, *job.callbacks()],
        logger=loggers,
        plugins=[CheckpointFiles()],
        enable_progress_bar=progress_bar and ranks.first,
        enable_model_summary=False,
    )
    return Assembly(classifier, trainer, throughput, history, checkpoints, guard, *diagnostics)


def _diagnostics(job: TrainingJob, ranks: Ranks) -> list[Diagnostics]:
    """None or one, as ``job`` asks for."""
    if job.diagnostics.name == "off":
        return []
    images = job.data.images
    return [Diagnostics(job.diagnostics, images.train.shape, len(images.classes), ranks)]


def make_classifier(job: TrainingJob, images: ImageSet, ranks: Ranks = ALONE) -> Classifier:
    """The untrained classifier of ``job`` for images such as ``images``."""
    return Classifier(
        replace_layers(job.network(images), job.backward, quiet=True),  # said before training
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
        share=job.data.share,
        ranks=ranks,
        leave_out_non_finite=job.on_nan == "skip",
    )


def _one_line_of_a_thread(arguments: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread; what goes wrong there is raised at the next scalar as well."""
    name = arguments.thread.name if arguments.thread else "a thread"
    log.warning("%s ended: %s", name, arguments.exc_value)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep back what Lightning says of itself and of what is as it should be."""
    loggers: Sequence[logging.Logger] = [
        logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    before, threading.excepthook = threading.excepthook, _one_line_of_a_thread
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        threading.excepthook = before
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
