"""The part ``trainer`` of a config → arguments of Lightning's Trainer, checked for this very training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

from cnnexp.config.errors import ConfigError
from cnnexp.config.lightning_options import PROFILERS, TRAINER, TUNING, refusal
from cnnexp.config.schema import TrainConfig
from cnnexp.config.targets import check_target, instance_of, make
from cnnexp.suggestions import did_you_mean
from cnnexp.training import TrainingJob
from cnnexp.training.trainer_settings import epoch_batches, validates

# What Lightning takes and then divides by, or silently does nothing with.
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "limit_val_batches": 0,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
    "overfit_batches": 0,
}
_BY_NAME: Mapping[str, Callable[..., Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
_LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")


def trainer_arguments(typed: TrainConfig, extra: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of Lightning's Trainer, which is the only one.

    Raises:
        ConfigError: An argument is unknown, decided elsewhere, or of no use with others.
    """
    config = typed.trainer
    for key in sorted(set(config) - {"_target_"}):
        if reason := TRAINER.get(key) or TUNING.get(key):
            raise ConfigError(f"trainer.{key}: {reason}")
    profiler = config.get("profiler")
    plain = {k: v for k, v in config.items() if k != "profiler" or not isinstance(v, Mapping)}
    arguments: dict[str, Any] = check_target("trainer", plain).keywords
    for key, least in _LEAST.items():
        value = arguments.get(key)
        if isinstance(value, (int, float)) and value < least:
            raise ConfigError(f"trainer.{key}={value}: must be at least {least}")
    for key in _LIMITS:
        share = arguments.get(key)
        if isinstance(share, float) and (share < 0 or (share > 1 and share % 1)):
            raise ConfigError(
                f"trainer.{key}={share}: must be a whole number of batches, or a share between 0.0 and 1.0"
            )
    if profiler is not None:
        arguments["profiler"] = _profiler(profiler, extra)
    _check_together(typed, arguments)
    return arguments


def _check_together(typed: TrainConfig, arguments: Mapping[str, Any]) -> None:
    for key, instead in (
        ("limit_train_batches", "to train nothing, set trainer.max_epochs=0"),
        ("limit_test_batches", "to leave the test out, set test=false"),
        ("val_check_interval", "to validate never, set data.val_size=0"),
    ):
        if arguments.get(key, 1.0) == 0:
            raise ConfigError(f"trainer.{key}=0: {instead}")
    algorithm = arguments.get("gradient_clip_algorithm")
    if algorithm is not None and arguments.get("gradient_clip_val") is None:
        raise ConfigError(
            f"trainer.gradient_clip_algorithm={algorithm}: clips nothing without "
            f"trainer.gradient_clip_val; or choose regularization=clip_norm"
        )
    if arguments.get("gradient_clip_val") and typed.accelerator.name == "fsdp":
        raise ConfigError(
            "accelerator=fsdp: trainer.gradient_clip_val needs each gradient whole, of which every "
            "process has a part; use accelerator=ddp"
        )


def _profiler(wish: Any, extra: Sequence[str]) -> Callable[[Path], Profiler]:
    """What makes one that writes into a folder: ``fit-<name>….txt``, ``test-<name>….txt``."""
    if isinstance(wish, Mapping):
        kind = check_target("trainer.profiler", wish, extra=extra).func
        reason = refusal(kind, PROFILERS) if isinstance(kind, type) else ""
        if reason:
            raise ConfigError(f"trainer.profiler._target_={wish['_target_']}: {reason}")
        return partial(_made_profiler, wish, extra)
    if wish == "xla":
        raise ConfigError(f"trainer.profiler=xla: XLAProfiler {PROFILERS['XLAProfiler']}")
    if wish not in _BY_NAME:
        raise ConfigError(
            f"trainer.profiler={wish}: must be one of {', '.join(_BY_NAME)}, or a class by "
            f"trainer.profiler._target_=…{did_you_mean(str(wish), _BY_NAME)}"
        )
    return lambda folder: _BY_NAME[wish](dirpath=folder, filename=wish)


def _made_profiler(node: Mapping[str, Any], extra: Sequence[str], folder: Path) -> Profiler:
    made = make("trainer.profiler", node, extra, dirpath=folder, filename="profile")
    return instance_of("trainer.profiler", made, Profiler)


def limits_batches(trainer: Mapping[str, Any]) -> bool:
    """Whether an epoch is not of all training batches."""
    limited = trainer.get("limit_train_batches", 1.0) not in (None, 1.0)
    return limited or bool(trainer.get("overfit_batches"))


def check_batches(job: TrainingJob) -> None:
    """Check whether there are as many batches as the Trainer's arguments count on; loads the data.

    Raises:
        ConfigError: There are not.
    """
    loaders = {
        "limit_train_batches": len(job.data.train_dataloader()),
        "limit_val_batches": len(job.data.val_dataloader()),
        "limit_test_batches": len(job.data.test_dataloader()),
    }
    loaders["overfit_batches"] = loaders["limit_train_batches"]
    for key in _LIMITS:
        share, count = job.trainer.get(key), loaders[key]
        if isinstance(share, float) and 0 < share < 1 and count > 0 and int(share * count) == 0:
            raise ConfigError(
                f"trainer.{key}={share}: is less than one of {count} batches; give a number of batches, "
                f"such as 1"
            )
    batches = epoch_batches(job)
    interval = job.trainer.get("val_check_interval")
    by_epoch = job.trainer.get("check_val_every_n_epoch", 1) is not None
    looked_at = by_epoch and validates(job) and not job.trainer.get("fast_dev_run")
    if looked_at and isinstance(interval, (int, float)) and interval > max(1, batches):
        raise ConfigError(
            f"trainer.val_check_interval={interval}: an epoch has {batches} batches only; lower it, or "
            f"count over epochs with +trainer.check_val_every_n_epoch=null"
        )
