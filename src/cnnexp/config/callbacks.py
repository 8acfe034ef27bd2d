"""The parts ``callbacks`` and ``logger`` of a config → objects, checked for this very training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from lightning.fabric.utilities.throughput import Throughput
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    Callback,
    DeviceStatsMonitor,
    GradientAccumulationScheduler,
    ModelPruning,
    ModelSummary,
    ProgressBar,
    ThroughputMonitor,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.model_summary import summarize
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from cnnexp.config.errors import ConfigError
from cnnexp.config.lightning_options import CALLBACKS, LOGGERS, TUNING, missing_package, refusal
from cnnexp.config.targets import check_target, instance_of, locate, make
from cnnexp.runs import RunFolder
from cnnexp.suggestions import did_you_mean
from cnnexp.training import TrainingJob
from cnnexp.training.callbacks import WeightAverage
from cnnexp.training.lightning_internals import cpu_stats, pruning_is_permanent
from cnnexp.training.trackers import TrackedRun, Tracker

# What takes any argument, and whom it passes them on to when the training has begun.
_PASSED_ON: Mapping[type, Callable[..., Any]] = {
    ModelSummary: summarize,
    ThroughputMonitor: Throughput,
    WeightAveraging: AveragedModel,
}
_OURS = "cnnexp.training."
_EVENT_FILES = "cnnexp.training.event_files.EventFiles"


def make_callbacks(config: Mapping[str, Any], extra: Sequence[str] = ()) -> list[Callback]:
    """One object for each part of ``callbacks``.

    Raises:
        ConfigError: A class is not allowed, does not work in a run, or refuses its arguments.
    """
    made = []
    for name, node in config.items():
        part = f"callbacks.{name}"
        if isinstance(node, Mapping):  # whether it works comes before what it takes
            _check_elsewhere(part, node.get("_target_"))
            _check_kind(part, node, locate(part, node.get("_target_"), extra))
        callback = make(part, node, extra, batch_size_fn=lambda batch: len(batch[1]))
        instance_of(part, callback, Callback)
        _check_kind(part, node, type(callback))
        made.append(callback)
    return made


def _check_elsewhere(part: str, target: object) -> None:
    """Say what does the same here as a class of Lightning's that is no callback."""
    package, _, name = str(target).rpartition(".")
    if name in TUNING and package.startswith("lightning."):
        raise ConfigError(f"{part}._target_={target}: {name} {TUNING[name]}")


def _check_kind(part: str, node: Mapping[str, Any], kind: Callable[..., Any]) -> None:
    if not inspect.isclass(kind):
        return
    target = node["_target_"]
    if reason := refusal(kind, CALLBACKS):
        raise ConfigError(f"{part}._target_={target}: {reason}")
    if f"{kind.__module__}.".startswith(_OURS) and not issubclass(kind, WeightAverage):
        raise ConfigError(f"{part}._target_={target}: {kind.__name__} is part of every run already")
    for general, receiver in _PASSED_ON.items():
        if issubclass(kind, general):
            known = {**inspect.signature(kind).parameters, **inspect.signature(receiver).parameters}
            for key in set(node) - set(known) - {"_target_"}:
                raise ConfigError(
                    f"{part}.{key}: {target} takes no argument '{key}'.{did_you_mean(key, known)}"
                )


def named_callbacks(job: TrainingJob) -> dict[str, Callback]:
    """New callbacks of ``job`` by the place in the config that asks for them."""
    made = [*job.regularizing_callbacks(), *job.callbacks()]
    names = [f"callbacks.{name}" for name in job.config.get("callbacks", {})]
    before = len(made) - len(names)
    others = [f"regularization ({type(each).__name__})" for each in made[:before]]
    return dict(zip([*others, *names], made, strict=True))


def check_callbacks(job: TrainingJob, named: Mapping[str, Callback]) -> None:
    """Check whether callbacks get along with each other and with the rest of ``job``.

    Raises:
        ConfigError: They do not.
    """
    for name, callback in named.items():
        _check_package(job, name, callback)
        if isinstance(callback, Timer) and job.trainer.get("max_time") is not None:
            raise ConfigError(f"trainer.max_time: {name} is a Timer already; leave one of them out")
        if isinstance(callback, GradientAccumulationScheduler):
            _check_accumulation(job, name)
        amount = getattr(callback, "amount", None) if isinstance(callback, ModelPruning) else None
        if isinstance(amount, float) and not 0 <= amount <= 1:
            raise ConfigError(f"{name}.amount={amount}: must be a share between 0.0 and 1.0")
        if isinstance(callback, ModelPruning) and not pruning_is_permanent(callback):
            raise ConfigError(
                f"{name}.make_pruning_permanent=false: leaves checkpoints in two forms, with masks and "
                f"without, of which the other commands read the second; leave it out"
            )
    for (one, a), (other, b) in combinations(named.items(), 2):
        _check_pair(one, a, other, b)


def _check_package(job: TrainingJob, name: str, callback: Callback) -> None:
    package = missing_package(type(callback))
    if isinstance(callback, DeviceStatsMonitor) and not cpu_stats(callback):
        where = job.trainer.get("accelerator")
        on_cpu = where == "cpu" or (where == "auto" and not torch.accelerator.is_available())
        if cpu_stats(callback) is False or not on_cpu:
            return
    if package:
        raise ConfigError(f"{name}: {type(callback).__name__} needs pip install {package}")


def _check_accumulation(job: TrainingJob, name: str) -> None:
    if job.trainer.get("accumulate_grad_batches", 1) != 1:
        raise ConfigError(
            f"{name}: GradientAccumulationScheduler and trainer.accumulate_grad_batches both say how many "
            f"batches a step is by; leave one of them out"
        )
    if job.full_batch:
        raise ConfigError(
            f"{name}: full-batch gradient descent takes all batches of an epoch for one step; leave the "
            f"GradientAccumulationScheduler out"
        )
    if job.scheduler is not None:
        raise ConfigError(
            f"{name}: GradientAccumulationScheduler changes how many steps an epoch has, over which a "
            f"schedule is laid; use scheduler=none, or trainer.accumulate_grad_batches"
        )


def check_passes(optimizer: Optimizer, named: Mapping[str, Callback]) -> None:
    """Make sure that nobody accumulates gradients for ``optimizer``, which asks for them more than once.

    Raises:
        ConfigError: Somebody does.
    """
    for name, callback in named.items():
        if isinstance(callback, GradientAccumulationScheduler):
            raise ConfigError(
                f"{name}: {type(optimizer).__name__} computes the gradient more than once a step, of one "
                f"batch; raise data.batch_size instead"
            )


def check_finetuning(network: nn.Module, named: Mapping[str, Callback]) -> None:
    """Check whether there is something to freeze, and something else to train.

    Raises:
        ConfigError: There is not.
    """
    parts = [n for n, part in network.named_children() if any(True for _ in part.parameters())]
    for name, callback in named.items():
        if isinstance(callback, BackboneFinetuning) and len(parts) < 2:
            raise ConfigError(
                f"{name}: BackboneFinetuning freezes all parts of the network but the last, and "
                f"{type(network).__name__} has {len(parts)} with parameters; use parameters.frozen"
            )


def _check_pair(one: str, a: Callback, other: str, b: Callback) -> None:
    if isinstance(a, ProgressBar) and isinstance(b, ProgressBar):
        raise ConfigError(f"{other}: {one} is a progress bar already; leave one of them out")
    averages = [isinstance(each, (WeightAverage, WeightAveraging)) for each in (a, b)]
    if all(averages):
        raise ConfigError(
            f"{one}, {other}: both replace the weights by an average; leave one of them out"
        )
    if any(averages) and any(isinstance(each, ModelPruning) for each in (a, b)):
        raise ConfigError(
            f"{one}, {other}: an average of weights does not know which of them are pruned; leave one of "
            f"them out"
        )
    stateful = all(type(each).state_dict is not Callback.state_dict for each in (a, b))
    if stateful and a.state_key == b.state_key:
        raise ConfigError(
            f"{other}: {one} is of the same class, {type(a).__name__}, with the same settings, and a "
            f"checkpoint cannot tell their states apart; leave one of them out"
        )


def make_loggers(
    config: Mapping[str, Any], extra: Sequence[str], called: str, folder: RunFolder
) -> list[Logger]:
    """One object for each part of ``logger``, which writes into the run's ``folder`` if it takes one.

    Args:
        config: That part of the config.
        extra: Prefixes of ``_target_`` allowed beyond cnnexp's own list.
        called: The run's name.
        folder: The run folder.
    """
    given = {"save_dir": folder.path, "tracked": TrackedRun(folder, called)}
    made = []
    for name, node in config.items():
        part, allowed = f"logger.{name}", extra
        if check_target(part, node, tuple(given), extra).func is TensorBoardLogger:
            # which takes more of a step; the config names it, and with it the hash of the job
            node, allowed = {**node, "_target_": _EVENT_FILES}, (*extra, _EVENT_FILES)
        made.append(instance_of(part, make(part, node, allowed, **given), Logger))
    return made


def check_loggers(config: Mapping[str, Any], extra: Sequence[str] = ()) -> None:
    """Check whether ``logger`` can be made, without making a file.

    Raises:
        ConfigError: It cannot.
    """
    for name, node in config.items():
        kind = check_target(f"logger.{name}", node, ("save_dir", "tracked"), extra).func
        if not inspect.isclass(kind):
            continue
        if reason := refusal(kind, LOGGERS):
            raise ConfigError(f"logger.{name}._target_={node['_target_']}: {reason}")
        if package := missing_package(kind):
            extra_of_ours = f'"cnnexp[{package}]"' if package in ("mlflow", "wandb") else ""
            package = extra_of_ours or package.replace("_", "-")
            raise ConfigError(f"logger.{name}: {kind.__name__} needs pip install {package}")
        if issubclass(kind, Tracker) and (reason := kind.unready(node)):
            raise ConfigError(f"logger.{name}: {kind.__name__} {reason}")
