"""What cnnexp uses of Lightning's private interface; its loop is in lightning_loop.py and _turn.py.

Each use is one function, which says what public way was looked for. Tried with lightning 2.6.6.
"""

from __future__ import annotations

import os
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    ModelCheckpoint,
    ModelPruning,
)
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric
from torch import Tensor, nn

__all__ = [
    "ask_no_rank_for_sigterm",
    "begin_anew",
    "cpu_stats",
    "forget_nvml",
    "leave_signals_alone",
    "looks_at_epoch_end",
    "may_stop_early",
    "move_logged_values_once",
    "pruning_is_permanent",
    "rewind_on_own_memory",
    "saves_at_epoch_end",
    "saves_every_steps",
    "steps_logged",
]


def steps_logged(trainer: L.Trainer) -> int:
    """The number that Lightning gives loggers as the step.

    ``trainer.global_step`` was looked at: it counts the steps of all optimisers, and is ahead of this one
    where a callback looks between the two counts.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def forget_nvml() -> None:
    """Where there is no GPU, let torch no longer look for NVML's library to say so.

    Lightning sets PYTORCH_NVML_BASED_CUDA_CHECK when it is imported, so that a process that asks for GPUs
    can still be forked. Without GPUs it can be anyhow, and torch's optimisers ask in each step, which takes
    30 to 100 µs then. Lightning was looked at: it has no switch.
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def begin_anew(trainer: L.Trainer, steps: int) -> None:
    """Let a resumed training forget that it was: Lightning would skip a plateau schedule at the epoch's end.

    ``trainer.fit_loop.restarting = False`` was tried: it means True where the length is given in steps, and
    holds for the loops within it, too. For the steps logged, which are one ahead after a restart in the
    middle of an epoch, there is no public way.

    Args:
        trainer: That is about to train on the first batch.
        steps: What :func:`steps_logged` was when the checkpoint was written.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = steps
    trainer.fit_loop._restarting = False


def may_stop_early(trainer: L.Trainer) -> bool:
    """Whether ``trainer.should_stop`` would be obeyed now: the least epochs and steps are done.

    ``trainer.fit_loop.done`` was looked at: it logs why it is done, each time that it is asked.
    """
    return trainer.fit_loop._can_stop_early


def ask_no_rank_for_sigterm(trainer: L.Trainer) -> None:
    """Let no rank wait, at every batch, for the first one to say whether it has got a SIGTERM.

    The Trainer's arguments and ``plugins`` were looked at: there is none that turns it off.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def leave_signals_alone(trainer: L.Trainer) -> None:
    """Let ``trainer`` not take SIGTERM, by which it ends as a failure, or with the exit code of a success.

    The Trainer's arguments and ``plugins`` were looked at: only under SLURM is there a switch, and it is for
    another signal.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None


_moved = _ResultMetric.to


def move_logged_values_once() -> None:
    """Let a logged value be moved to its device where it is not there yet, in every trainer of the process.

    Lightning 2.6 looks through all that it keeps of the value, each time that it is logged, which is most of
    what logging costs. The arguments of ``LightningModule.log`` were looked at: none leaves that out, and
    plain numbers are looked through as well.
    """

    def moved(kept: _ResultMetric, *arguments: Any, **options: Any) -> _ResultMetric:
        if kept.is_tensor and len(arguments) == 1 and not options:
            tensors = [
                kept.value,
                *([kept.cumulated_batch_size] if kept.meta.is_mean_reduction else []),
            ]
            if all(tensor.device == arguments[0] for tensor in tensors):
                return kept
        return _moved(kept, *arguments, **options)

    _ResultMetric.to = moved  # pyright: ignore[reportAttributeAccessIssue]


def rewind_on_own_memory(callback: ModelPruning) -> None:
    """Let ``callback`` give each weight its first value, but not the memory that it remembers it by.

    Lightning 2.6 has both use the same memory, so that training changes what a later pruning rewinds to.
    ``ModelPruning.apply_lottery_ticket_hypothesis`` was looked at, which is public: it copies all weights at
    once, out of attributes that are private.
    """

    def rewind(new: nn.Module, old: nn.Module, name: str) -> None:
        ModelPruning._copy_param(new, old, name)
        weight = getattr(new, f"{name}_orig", getattr(new, name))
        if isinstance(weight, Tensor):
            weight.data = weight.data.clone()

    callback._copy_param = rewind  # pyright: ignore[reportAttributeAccessIssue]


# What follows are arguments of callbacks, which keep them under private names and show them in no public
# way. The config was looked at: it has them only if they were given, and not for classes derived from these.


def pruning_is_permanent(callback: ModelPruning) -> bool:
    """``make_pruning_permanent``: whether checkpoints have pruned weights in one piece, without a mask."""
    return callback._make_pruning_permanent


def cpu_stats(callback: DeviceStatsMonitor) -> bool | None:
    """``cpu_stats``: whether statistics of the CPU are logged; None for those of a training on the CPU."""
    return callback._cpu_stats


def looks_at_epoch_end(callback: EarlyStopping) -> bool | None:
    """``check_on_train_epoch_end``: whether it looks at its metric there; None if Lightning is to choose."""
    return callback._check_on_train_epoch_end


def saves_at_epoch_end(callback: ModelCheckpoint) -> bool | None:
    """``save_on_train_epoch_end``: whether it looks at its metric there; None if Lightning is to choose."""
    return callback._save_on_train_epoch_end


def saves_every_steps(callback: ModelCheckpoint) -> int:
    """``every_n_train_steps``: the steps between two checkpoints; 1 if time counts, and 0 if neither does."""
    return 1 if callback._train_time_interval is not None else callback._every_n_train_steps
