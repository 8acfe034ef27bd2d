"""Put a training together: classifier, callbacks, loggers, Trainer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.loggers import Logger
from torch import Tensor

from cnnexp.data import ImageSet
from cnnexp.models import Transfer
from cnnexp.privacy import check_independence
from cnnexp.runs import RunFolder, SpentSteps
from cnnexp.training.backward import loss_layer
from cnnexp.training.callbacks import (
    Diagnostics,
    EpochHistory,
    FirstLayerFilters,
    HardestImages,
    Judge,
    LearningRate,
    NonFiniteGuard,
    PrivacyLog,
    ProgressBar,
    RunStatus,
    TestPictures,
    Throughput,
    TrainingPictures,
    at_home,
    needs_plain_kernels,
)
from cnnexp.training.classifier import Classifier
from cnnexp.training.debugging import LayerProfile, OverfitCheck
from cnnexp.training.lightning_internals import (
    forget_nvml,
    leave_signals_alone,
    move_logged_values_once,
)
from cnnexp.training.lightning_loop import take_steps_per_call
from cnnexp.training.loggers import MetricsFile
from cnnexp.training.memory_layout import takes_channels_last
from cnnexp.training.privacy_account import PrivacyAccount, privacy_account
from cnnexp.training.private import PrivateClassifier, private_gradient
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.resume.callback import Checkpoints
from cnnexp.training.resume.plugin import CheckpointFiles
from cnnexp.training.resume.point import ResumePoint
from cnnexp.training.seeds import seed_of_changes
from cnnexp.training.setting_facts import setting_facts
from cnnexp.training.steps_per_call import Calls, sees_each_step, settle_steps_per_call
from cnnexp.training.stopping import StopSignals
from cnnexp.training.trainer_settings import lightning_settings, overfits, validates
from cnnexp.training.training_job import TrainingJob


@dataclass
class Assembly:
    """What trains, and the callbacks that are asked for their figures afterwards."""

    classifier: Classifier
    trainer: L.Trainer
    throughput: Throughput
    history: EpochHistory
    checkpoints: Checkpoints
    guard: NonFiniteGuard
    start: Transfer | None = None
    diagnostics: Diagnostics | None = None
    judge: Judge | None = None
    account: PrivacyAccount | None = None
    finding: OverfitCheck | LayerProfile | None = None


def assemble(
    job: TrainingJob,
    folder: RunFolder,
    signals: StopSignals,
    *,
    progress_bar: bool = False,
    resume: ResumePoint | None = None,
    ranks: Ranks = ALONE,
) -> Assembly:
    """Make all that ``job`` needs to train, once the seed is set.

    Args:
        job: What to train.
        folder: The run folder.
        signals: Where signals ask for a stop.
        progress_bar: Show one on the terminal.
        resume: The checkpoint to resume from.
        ranks: The processes of the training.
    """
    _share_batches(job, ranks)
    own = at_home([*job.regularizing_callbacks(), *job.callbacks()], folder)
    if needs_plain_kernels(own):
        job = replace(job, channels_last=False)
    calls = _calls(job, own, ranks)
    signals.steps_per_call = calls.until_stop
    account = None
    if job.privacy.private:
        account = privacy_account(job, SpentSteps(folder.spent, writes=ranks.first), resume)
    classifier = make_classifier(job, job.data.images, ranks, account)
    # a checkpoint has all weights, and those that the run began with may be gone
    start = job.start.give_to(classifier.network) if job.start and resume is None else None
    members = job.data.members if account is None else _nobody
    guard = NonFiniteGuard(folder, job.on_nan, members, ranks=ranks)
    checkpoints = _checkpoints(job, folder, signals, guard, resume, ranks, calls)
    throughput, history = Throughput(), EpochHistory(sparse=job.debug == "overfit")
    diagnostics = _diagnostics(job, ranks)
    judges = [Judge(each, job.diagnostics.every, ranks) for each in diagnostics if _of_classes(job)]
    finding = _debugging(job, folder) if ranks.first else None
    own_bar = any(isinstance(callback, AnyProgressBar) for callback in own)
    shown = progress_bar and ranks.first and not own_bar
    callbacks: list[Callback] = [
        throughput,
        guard,
        *diagnostics,
        *judges,
        *([PrivacyLog(account)] if account is not None else []),
        LearningRate(),
        *_pictures(job, folder, diagnostics, ranks),
        history,
        RunStatus(folder),
        *([finding] if finding is not None else []),
        *([_bar(calls)] if shown else []),
        checkpoints,
    ]
    trainer = _trainer(job, folder, resume, [*callbacks, *own], calls, bar=shown or own_bar)
    # before a checkpoint is read: Lightning converts afterwards, and float64 would go through float32
    trainer.precision_plugin.convert_module(classifier)
    measured = (next(iter(diagnostics), None), next(iter(judges), None))
    kept = (throughput, history, checkpoints, guard, start, *measured, account, finding)
    return Assembly(classifier, trainer, *kept)


def _pictures(
    job: TrainingJob, folder: RunFolder, diagnostics: Sequence[Diagnostics], ranks: Ranks
) -> list[Callback]:
    """The callbacks that draw, in the order in which they do."""
    images, full = job.data.images, job.diagnostics.name == "full"
    training: list[Callback] = []
    if ranks.first:
        training += [TrainingPictures(each, job.data, folder, full=full) for each in diagnostics]
        if full and images.targets == "classes":
            training.append(HardestImages(job.data, images.classes))
    return [FirstLayerFilters(), *training, *_test_pictures(job, ranks)]


def _of_classes(job: TrainingJob) -> bool:
    """Whether an image has one class: what a verdict compares with guessing."""
    return job.data.images.targets == "classes"


def _debugging(job: TrainingJob, folder: RunFolder) -> OverfitCheck | LayerProfile | None:
    """The callback that finds out what ``job.debug`` asks, where that takes one."""
    if job.debug == "profile":
        return LayerProfile(folder.profile)
    if job.debug == "overfit":
        schedule = ["the scheduler"] if job.scheduler is not None else []
        methods = [f"regularization={each.name}" for each in job.regularizers]
        return OverfitCheck([*methods, *schedule])
    return None


def _calls(job: TrainingJob, own: Sequence[Callback], ranks: Ranks) -> Calls:
    """How many steps a call of Lightning's loop has, ``own`` callbacks considered."""
    rows = job.trainer.get("log_every_n_steps") or 50  # Lightning's default
    return settle_steps_per_call(job.steps_per_call, rows, own, alone=ranks.count == 1)


def _bar(calls: Calls) -> ProgressBar:
    """A bar that is drawn anew after every ten steps or so; of longer calls after each, however it ended."""
    short = calls.steps * math.ceil(10 / calls.steps)
    return ProgressBar(refresh_rate=short if calls.steps < 10 else 1)


def _share_batches(job: TrainingJob, ranks: Ranks) -> None:
    """Let each process have its part of each batch, and every epoch its order."""
    # where batches are secret, all draw the same ones, and nobody can draw them again once they are gone
    key = ranks.from_first(os.urandom(32)) if job.data.secret else None
    job.data.share_with(ranks.rank, ranks.count, key)
    job.data.repeat_first_epoch(overfits(job))


def _trainer(
    job: TrainingJob,
    folder: RunFolder,
    resume: ResumePoint | None,
    callbacks: Sequence[Callback],
    calls: Calls,
    *,
    bar: bool,
) -> L.Trainer:
    move_logged_values_once()
    forget_nvml()
    loggers: list[Logger] = [MetricsFile(folder), *job.loggers(folder)]
    trainer = L.Trainer(
        **lightning_settings(job, folder.profile),
        default_root_dir=folder.path,
        callbacks=[*callbacks],
        logger=loggers,
        plugins=[CheckpointFiles(folder.path, resume)],
        enable_progress_bar=bar,
        enable_model_summary=False,
    )
    leave_signals_alone(trainer)
    take_steps_per_call(trainer, calls, sees_each_step, log_each=job.privacy.private)
    return trainer


def _checkpoints(
    job: TrainingJob,
    folder: RunFolder,
    signals: StopSignals,
    guard: NonFiniteGuard,
    resume: ResumePoint | None,
    ranks: Ranks,
    calls: Calls,
) -> Checkpoints:
    """The callback that writes them where ``job`` asks for it, each looked at by ``guard``."""
    return Checkpoints(
        folder,
        monitor=job.monitor if validates(job) else None,
        mode=job.mode,
        every_n_steps=job.checkpoint_steps,
        until_stop=calls.until_stop,
        signals=signals,
        resume=resume,
        check=guard.before_checkpoint,
        identity=job.identity,
        keep=not job.trainer.get("fast_dev_run"),
        ranks=ranks,
    )


def _test_pictures(job: TrainingJob, ranks: Ranks) -> list[TestPictures]:
    """What draws the classes that are confused; labels and numbers have none."""
    images, full = job.data.images, job.diagnostics.name == "full"
    if images.targets != "classes":
        return []
    return [TestPictures(images.classes, ranks=ranks, embedding=full)]


def _nobody(_epoch: int, _batch: int) -> Tensor:
    """No image: a private training names none."""
    return torch.empty(0, dtype=torch.int64)


def _diagnostics(job: TrainingJob, ranks: Ranks) -> list[Diagnostics]:
    """The callback that measures, in a list, which is empty where ``job`` asks for none."""
    if job.diagnostics.name == "off":
        return []
    images = job.data.images  # labels and numbers are no choice among so many classes
    count = len(images.classes) if images.targets == "classes" else 1
    facts = setting_facts(job)
    return [Diagnostics(job.diagnostics, images.train.shape, count, ranks, facts)]


def make_classifier(
    job: TrainingJob,
    images: ImageSet,
    ranks: Ranks = ALONE,
    account: PrivacyAccount | None = None,
) -> Classifier:
    """The untrained classifier of ``job`` for images such as ``images``; to train it privately, with
    ``account``.
    """
    network = job.network(images)
    channels_last = job.channels_last and takes_channels_last(network, images)
    # mean and standard deviation are measured on training images, and would be published with the weights
    fixed = ((0.5,) * images.channels,) * 2
    mean, std = fixed if job.privacy.private else (images.mean, images.std)
    metrics = {} if job.metrics is None else job.metrics(images)
    options: dict[str, Any] = {
        "num_classes": len(images.classes),
        "mean": mean,
        "std": std,
        "optimizer": job.optimizer,
        "scheduler": job.scheduler,
        "regularizers": job.regularizers,
        "loss": loss_layer(job.backward) if job.loss is None else job.loss(job.data),
        "targets": images.targets,
        "metrics": metrics,
        "seed": seed_of_changes(job, ranks),
        "monitor": job.monitor,
        "images_per_step": len(job.data.train) if job.full_batch else None,
        "channels_last": channels_last,
        "share": job.data.share,
        "ranks": ranks,
        "leave_out_non_finite": job.on_nan == "skip",
    }
    network = job.with_backward(network)  # what it did is said before training
    if account is None:
        return Classifier(network, **options)
    gradient = private_gradient(job, account, ranks)
    check_independence(network.train(), torch.empty(1, *images.train.shape))
    options |= {"spend": account.spend, "copies": job.privacy.augmentations}
    return PrivateClassifier(network, gradient=gradient, **options)
