"""What cnnexp uses of Lightning's private interface; no other file of the package does.

Each use is one function, which says what public way was looked for. Tried with lightning 2.6.6.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    Callback,
    DeviceStatsMonitor,
    EarlyStopping,
    ModelCheckpoint,
    ModelPruning,
)
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric
from torch import Tensor, nn

__all__ = [
    "ask_no_rank_for_sigterm",
    "begin_anew",
    "cpu_stats",
    "every_callback",
    "forget_nvml",
    "is_logged",
    "looks_at_epoch_end",
    "may_stop_early",
    "move_logged_values_once",
    "pruning_is_permanent",
    "rewind_on_own_memory",
    "saves_at_epoch_end",
    "steps_logged",
    "take_steps_per_call",
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


class _StepsPerCall(_TrainingEpochLoop):
    """An epoch in which Lightning's whole turn around a batch is taken once for several steps.

    The other steps are Lightning's own turns too, with the same counters, hooks of the module and schedule,
    but of the callbacks only those take part that have to see each step, and what a step would log is left
    out unless the loggers are due. So all that a checkpoint holds is as if each step had its whole turn.

    Public ways were looked at: several steps within one ``training_step`` take manual optimisation, whose
    loop counts a batch for all of them, writes other checkpoints, and leaves clipping, accumulation and the
    schedule to the module (docs/decisions/steps-per-call.md).

    Args:
        trainer: Before it fits.
        steps: Of the optimiser in a call, ≥ 1; a call is shorter where an epoch or the training ends, where
            a validation is due, and after a restart.
        sees_each: Whether a callback takes part in each step.
        log_each: Log what each step has to say, loggers due or not: where a callback may stop the training
            at any step, whose row is then written.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        steps: int,
        sees_each: Callable[[Callback], bool],
        *,
        log_each: bool = False,
    ) -> None:
        before = trainer.fit_loop.epoch_loop
        super().__init__(trainer, before.min_steps, before.max_steps)
        self._steps, self._sees_each, self._log_each = steps, sees_each, log_each
        self._everyone: list[Callback] | None = None  # while only some callbacks take part
        # a resumed training counts aright within its first step only, see begin_anew
        self._first = True

    @property
    def is_logged(self) -> bool:
        """Whether the present step has to log what it has to say."""
        due = self.trainer._logger_connector.should_update_logs
        return self._everyone is None or self._first or self._log_each or due

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """The steps of a call, the last one with Lightning's whole turn."""
        if not self.restarting and not self._ends_call():
            with self._some_callbacks():
                while not self._ends_call():
                    self._turn(data_fetcher)
                    if self.trainer.should_stop:
                        return  # to what Lightning does after a turn
                    super().on_advance_end(data_fetcher)
        self._turn(data_fetcher)

    def _turn(self, data_fetcher: _DataFetcher) -> None:
        begun = self.batch_progress.total.ready
        super().advance(data_fetcher)  # after a restart it may find nothing to do
        self._first = self._first and self.batch_progress.total.ready == begun

    def _ends_call(self) -> bool:
        """Whether the next batch is the last one of its call."""
        trainer, progress = self.trainer, self.batch_progress
        done = progress.current.ready + 1
        whole_epoch = trainer.check_val_every_n_epoch is not None
        validated = done if whole_epoch else progress.total.ready + 1
        every = trainer.val_check_batch
        return (
            done % (self._steps * trainer.accumulate_grad_batches) == 0
            or done >= trainer.num_training_batches
            or (self.max_steps != -1 and self.global_step + 1 >= self.max_steps)
            or (isinstance(every, int) and validated % every == 0)
        )

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        """Not within a call, where a time between validations may be over at any step."""
        return self._everyone is None and super()._should_check_val_fx(data_fetcher)

    @contextmanager
    def _some_callbacks(self) -> Iterator[None]:
        trainer: Any = self.trainer  # whose class says nothing of its callbacks
        everyone = self._everyone = list(trainer.callbacks)
        trainer.callbacks = [each for each in everyone if self._sees_each(each)]
        try:
            yield
        finally:
            trainer.callbacks, self._everyone = everyone, None

    @contextmanager
    def every_callback(self) -> Iterator[None]:
        """Within it all callbacks take part, as in what a checkpoint is made of."""
        trainer: Any = self.trainer
        some = trainer.callbacks
        trainer.callbacks = self._everyone or some
        try:
            yield
        finally:
            trainer.callbacks = some


def take_steps_per_call(
    trainer: L.Trainer,
    steps: int,
    sees_each: Callable[[Callback], bool],
    *,
    log_each: bool = False,
) -> None:
    """Let ``trainer`` take its whole turn around a batch once for so many ``steps``; see the class above."""
    if steps > 1:
        trainer.fit_loop.epoch_loop = _StepsPerCall(trainer, steps, sees_each, log_each=log_each)


def is_logged(module: L.LightningModule) -> bool:
    """Whether the present step has to log what it has to say: loggers are due, or it ends a call.

    ``module.trainer`` was looked at: it raises where a module is called without a Trainer, and ``module.log``
    does nothing then.
    """
    if module._trainer is None:
        return True
    loop = module._trainer.fit_loop.epoch_loop
    return loop.is_logged if isinstance(loop, _StepsPerCall) else True


def every_callback(trainer: L.Trainer) -> AbstractContextManager[None]:
    """Within it all callbacks of ``trainer`` take part, also in the midst of the steps of a call."""
    loop = trainer.fit_loop.epoch_loop
    return loop.every_callback() if isinstance(loop, _StepsPerCall) else nullcontext()


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
