"""What a job says to Lightning's Trainer, in the Trainer's own words."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.profilers import PassThroughProfiler

from cnnexp.training.training_job import TrainingJob

_NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Measures nothing, without a new context for each of the hundred and more calls of hooks in a step."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A context that does nothing."""
        return _NOTHING


def lightning_settings(job: TrainingJob, profile: Path) -> dict[str, Any]:
    """The arguments of ``lightning.Trainer`` that say how long and by what ``job`` trains.

    Args:
        job: Its data may be loaded for this.
        profile: The folder of what ``trainer.profiler`` measures.
    """
    settings = dict(job.trainer)
    overfit = settings.pop("overfit_batches", 0)
    if overfit:  # Lightning would make a loader of its own that does not shuffle
        of_val = len(job.data.val_dataloader())
        share = max(1, int(overfit * of_val)) if isinstance(overfit, float) else overfit
        settings["limit_train_batches"] = overfit
        if settings.get("limit_val_batches") != 0:
            settings["limit_val_batches"] = share
    if not len(job.data.val):
        settings["limit_val_batches"] = 0
    if job.full_batch:
        settings["accumulate_grad_batches"] = len(job.data.train_dataloader())
    if callable(settings.get("profiler")):
        settings["profiler"] = settings["profiler"](profile)
    settings["profiler"] = settings.get("profiler") or NoProfiler()
    if job.parallel is not None:
        settings |= {
            "devices": job.parallel.devices,
            "num_nodes": job.parallel.nodes,
            "strategy": job.parallel.strategy(),
            "use_distributed_sampler": False,  # each batch is cut, not the data set
        }
    return settings


def epoch_batches(job: TrainingJob) -> int:
    """How many batches a training epoch of ``job`` has; its data is loaded for this."""
    batches = len(job.data.train_dataloader())
    limit = job.trainer.get("overfit_batches") or job.trainer.get("limit_train_batches")
    if limit is None:
        return batches
    return min(limit, batches) if isinstance(limit, int) else int(limit * batches)


def overfits(job: TrainingJob) -> bool:
    """Whether each epoch of ``job`` is by the same few batches."""
    return bool(job.trainer.get("overfit_batches"))


def validates(job: TrainingJob) -> bool:
    """Whether ``job`` looks at validation images at all."""
    return bool(len(job.data.val)) and job.trainer.get("limit_val_batches") != 0
