"""Lightning's loop over the batches of an epoch, with several steps of the optimiser in one turn of it.

Tried with lightning 2.6.6; of its private interface as lightning_internals.py, and lightning_turn.py for what
a step within a turn is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from cnnexp.training.lightning_turn import ShortTurn
from cnnexp.training.steps_per_call import Calls

__all__ = ["every_callback", "is_logged", "take_steps_per_call"]


class _StepsPerCall(_TrainingEpochLoop):
    """An epoch in which Lightning's whole turn around a batch is taken once for several steps.

    The other steps have the same counters, hooks of the module and schedule, but of the callbacks only those
    take part that have to see each step, and what a step would log is left out unless the loggers are due.
    They are short turns where these serve, or else Lightning's own with fewer callbacks.

    Public ways were looked at: several steps within one ``training_step`` take manual optimisation, whose
    loop counts a batch for all of them, writes other checkpoints, and leaves clipping, accumulation and the
    schedule to the module (docs/decisions/steps-per-call.md).

    Args:
        trainer: Before it fits.
        calls: How long a call is; it is shorter where an epoch or the training ends, where a validation is
            due, and after a restart.
        sees_each: Whether a callback takes part in each step.
        log_each: Log what each step has to say, loggers due or not: where a callback may stop the training
            at any step, whose row is then written.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        calls: Calls,
        sees_each: Callable[[Callback], bool],
        log_each: bool,
    ) -> None:
        before = trainer.fit_loop.epoch_loop
        super().__init__(trainer, before.min_steps, before.max_steps)
        self._calls, self._sees_each, self._log_each = calls, sees_each, log_each
        self._began = 0.0  # when the present call did
        self._within = False  # a call, whose last step is to come
        self._everyone: list[Callback] | None = None  # while only some callbacks take part
        self._short: ShortTurn | None = None
        # a resumed training counts aright within its first step only, see begin_anew
        self._first = True

    @property
    def is_logged(self) -> bool:
        """Whether the present step has to log what it has to say."""
        due = self.trainer._logger_connector.should_update_logs
        return not self._within or self._first or self._log_each or due

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """The steps of a call, the last one with Lightning's whole turn."""
        self._began = perf_counter()
        # without its length, nobody knows which batch ends an epoch
        has_length = not math.isinf(self.trainer.num_training_batches)
        if has_length and not self.restarting and not self._ends_call():
            self._within = True
            try:
                if self._all_but_last(data_fetcher):
                    return  # to what Lightning does after a turn
            finally:
                self._within = False
        self._turn(data_fetcher)

    def _all_but_last(self, data_fetcher: _DataFetcher) -> bool:
        """The steps before a call's last one; whether the training shall stop before that."""
        trainer: Any = self.trainer  # whose class says nothing of its callbacks
        some = [each for each in trainer.callbacks if self._sees_each(each)]
        serves = ShortTurn.serves(self, data_fetcher)
        if serves:
            if self._short is None or self._short.module is not trainer.lightning_module:
                self._short = ShortTurn(self)
            self._short.begin(some)
        while not self._ends_call():
            if self._short is not None and serves and not self.is_logged:
                self._short(data_fetcher)
            else:
                with self._only(some):
                    self._turn(data_fetcher)
            if trainer.should_stop:
                return True
            super().on_advance_end(data_fetcher)
        return False

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
            done % (self._calls.steps * trainer.accumulate_grad_batches) == 0
            or done >= trainer.num_training_batches
            or (self.max_steps != -1 and self.global_step + 1 >= self.max_steps)
            or (isinstance(every, int) and validated % every == 0)
            or any((self.global_step + 1) % period == 0 for period in self._calls.periods)
            or self._took_long(done)
        )

    def _took_long(self, done: int) -> bool:
        longest = self._calls.longest
        if longest is None or done % self.trainer.accumulate_grad_batches:
            return False
        return perf_counter() - self._began > longest

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        """Not within a call, where a time between validations may be over at any step."""
        return not self._within and super()._should_check_val_fx(data_fetcher)

    @contextmanager
    def _only(self, some: list[Callback]) -> Iterator[None]:
        trainer: Any = self.trainer
        everyone = self._everyone = trainer.callbacks
        trainer.callbacks = some
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
    calls: Calls,
    sees_each: Callable[[Callback], bool],
    *,
    log_each: bool = False,
) -> None:
    """Let ``trainer`` take its whole turn around a batch once a call; see the class above."""
    if calls.steps > 1:
        trainer.fit_loop.epoch_loop = _StepsPerCall(trainer, calls, sees_each, log_each)


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
