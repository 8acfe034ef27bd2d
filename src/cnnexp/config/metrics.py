"""The part ``metrics`` of a config → what a training logs of validation and test beside loss and accuracy."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torchmetrics import Metric

from cnnexp.config.errors import ConfigError
from cnnexp.config.targets import check_target, instance_of, make
from cnnexp.data import ImageSet
from cnnexp.runs.goodness import less_is_better
from cnnexp.suggestions import did_you_mean
from cnnexp.training import MetricsFactory, TrainingJob
from cnnexp.training.scores import judged, score_name

__all__ = ["check_metrics", "check_monitor", "metrics_of"]

_TASKS = {"classes": "multiclass", "labels": "multilabel"}
_FROM_DATA = ("task", "num_classes", "num_labels")
_TAKEN = ("loss", "acc", "mae")


def metrics_of(node: Mapping[str, Any], extra: Sequence[str] = ()) -> MetricsFactory | None:
    """What makes the metrics for the images, by their names in the log; None for none.

    Raises:
        ConfigError: One is not allowed, or does not take its arguments; a name cannot be one.
    """
    for name, part in node.items():
        if not re.fullmatch(r"\w+", name) or name in _TAKEN:
            raise ConfigError(
                f"metrics.{name}: must be a name of letters and digits, other than {', '.join(_TAKEN)}"
            )
        check_target(f"metrics.{name}", part, _FROM_DATA, extra)
    return partial(_metrics, node, tuple(extra)) if node else None


def _metrics(node: Mapping[str, Any], extra: Sequence[str], images: ImageSet) -> dict[str, Metric]:
    made = {}
    outputs, task = len(images.classes), _TASKS.get(images.targets)
    given = {"num_classes": outputs, "num_labels": outputs, **({"task": task} if task else {})}
    for name, part in node.items():
        metric = make(f"metrics.{name}", part, extra, **given)
        made[name] = instance_of(f"metrics.{name}", metric, Metric)
    return made


def check_metrics(job: TrainingJob) -> None:
    """Make the metrics of ``job``, whose data is loaded, once, and let them judge two outputs.

    Raises:
        ConfigError: One refuses its arguments or these targets, gives more than one number, or has a name
            that says the wrong way round which is better.
    """
    if job.metrics is None:
        return
    images = job.data.images
    outputs = len(images.classes)
    rows = torch.linspace(-1, 1, 8 * outputs).view(8, outputs)
    wanted = torch.arange(8) % outputs if images.targets == "classes" else rows.gt(0).float()
    for name, metric in job.metrics(images).items():
        part = f"metrics.{name}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of so few outputs some metrics know too little
                metric.update(*judged(rows, wanted, images.targets))
                value = metric.compute()
        except Exception as error:  # whatever a user's metric raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"{part}: cannot judge {images.targets}: {reason}") from error
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise ConfigError(f"{part}: must give one number; set an average over the classes")
        better = metric.higher_is_better
        if better is not None and better is less_is_better(name):
            way = "least" if less_is_better(name) else "greatest"
            raise ConfigError(
                f"{part}: by its name the {way} value is the best, but {type(metric).__name__} is the "
                f"other way round; let the name end in _error, or not"
            )


def check_monitor(job: TrainingJob) -> None:
    """See whether ``checkpoint.monitor`` is a metric that a validation of ``job`` logs.

    Raises:
        ConfigError: It is not.
    """
    score = score_name(job.data.images.targets)
    names = [] if job.metrics is None else list(job.metrics(job.data.images))
    known = [f"val/{name}" for name in (score, "loss", *names)]
    if job.monitor not in known:
        hint = did_you_mean(job.monitor.rpartition("/")[2], [k.rpartition("/")[2] for k in known])
        reason = ", numbers have no accuracy" if job.monitor == "val/acc" else ""
        raise ConfigError(
            f"checkpoint.monitor={job.monitor}: must be one of {', '.join(known)}{reason}.{hint}"
        )
