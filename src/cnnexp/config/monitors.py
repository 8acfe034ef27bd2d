"""Which metrics a training logs, and whether everything that looks at one finds it in time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta

from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)

from cnnexp.config.errors import ConfigError
from cnnexp.regularization import taking_part
from cnnexp.suggestions import did_you_mean
from cnnexp.training import TrainingJob
from cnnexp.training.lightning_internals import looks_at_epoch_end, saves_at_epoch_end
from cnnexp.training.scores import score_name
from cnnexp.training.trainer_settings import validates

_AT_EPOCH_END = ("train/loss", "train/acc", "train/mae", "perf/images_per_second")
_FIELDS = re.compile(r"\{(.*?)[:\}]")  # of a file name, as Lightning finds them
_OF_ANY = ("epoch", "step")  # what a ModelCheckpoint knows beside metrics


def logged_metrics(job: TrainingJob) -> list[str]:
    """The names of what callbacks find in ``trainer.callback_metrics``."""
    penalties = [f"train/penalty/{each.name}" for each in taking_part(job.regularizers, "penalty")]
    score = score_name(job.data.images.targets)
    train = ["train/loss", f"train/{score}", "train/loss_step", "train/lr", *penalties]
    return [*train, _AT_EPOCH_END[-1], *(_of_validation(job) if validates(job) else ())]


def _of_validation(job: TrainingJob) -> list[str]:
    """The metrics that a validation of ``job`` logs."""
    images = job.data.images
    names = () if job.metrics is None else job.metrics(images)
    known = [f"val/{name}" for name in ("loss", score_name(images.targets), *names)]
    return [*known, "perf/train_seconds"]


def check_monitors(job: TrainingJob, named: Mapping[str, Callback]) -> None:
    """Check whether each metric that a callback monitors is logged, and before it is looked at.

    Args:
        job: Its data is loaded.
        named: Callbacks by their place in the config. One that is neither Lightning's nor cnnexp's may
            log any metric of its own.

    Raises:
        ConfigError: A metric is not.
    """
    if any(not type(c).__module__.startswith(("lightning.", "cnnexp.")) for c in named.values()):
        return
    rates = any(isinstance(callback, LearningRateMonitor) for callback in named.values())
    for name, callback in named.items():
        monitor = getattr(callback, "monitor", None)
        counts = isinstance(callback, ModelCheckpoint) and monitor in _OF_ANY
        if isinstance(monitor, str) and not counts:
            _check_logged(job, f"{name}.monitor={monitor}", monitor, rates)
            _check_in_time(job, name, callback, monitor)
        file = getattr(callback, "filename", None)
        if isinstance(callback, ModelCheckpoint) and file:
            for field in set(_FIELDS.findall(file)) - set(_OF_ANY):
                _check_logged(job, f"{name}.filename={file}", field, rates)


def _check_logged(job: TrainingJob, what: str, metric: str, rates: bool) -> None:
    known = logged_metrics(job)
    if metric in known or metric.startswith("train/lr/") or (rates and metric.startswith("lr-")):
        return
    if metric in _of_validation(job):
        raise ConfigError(
            f"{what}: the run has no validation, so nobody logs {metric}; see data.val_size and "
            f"trainer.limit_val_batches"
        )
    raise ConfigError(
        f"{what}: the run logs no '{metric}', but {', '.join(known)}.{did_you_mean(metric, known)}"
    )


def _check_in_time(job: TrainingJob, name: str, callback: Callback, monitor: str) -> None:
    if isinstance(callback, EarlyStopping):
        key, at_end = "check_on_train_epoch_end", looks_at_epoch_end(callback)
        if not callback.strict:
            return
    elif isinstance(callback, ModelCheckpoint):
        key, at_end = "save_on_train_epoch_end", saves_at_epoch_end(callback)
    else:
        return
    every_epoch = _validates_every_epoch(job)
    if at_end is None:
        interval = job.trainer.get("val_check_interval")  # 1.0 is a whole epoch, 1 is a batch
        within_epochs = interval not in (None, 1.0) or isinstance(interval, int)
        at_end = not validates(job) or (every_epoch and not within_epochs)
    if at_end and monitor in _of_validation(job) and not every_epoch:
        raise ConfigError(
            f"{name}.{key}=true: {monitor} is not there at the end of an epoch without validation; leave "
            f"{key} out"
        )
    every = job.trainer.get("check_val_every_n_epoch", 1)
    early = every is None or every == 1
    if not at_end and monitor in _AT_EPOCH_END and validates(job) and early:
        raise ConfigError(
            f"{name}.monitor={monitor}: is there at the end of the epoch, after the first validation, which "
            f"looks for it; add +{name}.{key}=true"
        )


def _validates_every_epoch(job: TrainingJob) -> bool:
    """Whether there is a validation in each epoch, at its end at the latest."""
    interval = job.trainer.get("val_check_interval")
    by_epoch = job.trainer.get("check_val_every_n_epoch", 1) == 1
    return validates(job) and by_epoch and not isinstance(interval, timedelta)


def check_plateau(job: TrainingJob) -> None:
    """Check whether a schedule that looks at validations gets one in time.

    Raises:
        ConfigError: It does not.
    """
    if not validates(job):
        raise ConfigError(
            f"scheduler: looks at {job.monitor} of each validation, but the run has none; see data.val_size "
            f"and trainer.limit_val_batches, or use another scheduler"
        )
    by_epoch = job.trainer.get("check_val_every_n_epoch", 1) is not None
    if not by_epoch or isinstance(job.trainer.get("val_check_interval"), timedelta):
        raise ConfigError(
            f"scheduler: looks at {job.monitor} at the end of an epoch, which may have no validation with "
            f"trainer.val_check_interval={job.config['trainer'].get('val_check_interval')}; count "
            f"validations by epochs, or use another scheduler"
        )
