"""When checkpoints are written, and what stands in them so that a training can be resumed exactly."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from cnnexp.kernels.compilation import clock
from cnnexp.runs import RunFolder
from cnnexp.runs.files import SCRATCH
from cnnexp.training.lightning_internals import (
    ask_no_rank_for_sigterm,
    begin_anew,
    steps_logged,
)
from cnnexp.training.lightning_loop import every_callback
from cnnexp.training.loggers import event_writers
from cnnexp.training.ranks import ALONE, Ranks
from cnnexp.training.resume.point import ResumePoint
from cnnexp.training.resume.position import Position
from cnnexp.training.resume.random_state import random_state, restore_random_state
from cnnexp.training.stopping import StopSignals

log = logging.getLogger(__name__)


class Checkpoints(Checkpoint):
    """Keep best.ckpt and last.ckpt, and stop between two steps when a signal asks for it.

    last.ckpt is written when the first batch of an epoch is about to be trained on, every so many
    steps if asked for, at a stop, and at the end. All that came before is logged by then, and all that
    comes after depends on what stands in it: beside Lightning's own, the states of the random
    number generators, the position within the epoch, how far the logs had come. The last.ckpt before
    it stays as previous.ckpt.

    Args:
        folder: The run folder.
        monitor: The validation metric whose best epoch best.ckpt is of; None for no best.ckpt.
        mode: Whether the greatest or the least of it is the best.
        every_n_steps: Steps of the optimiser between two last.ckpt; None for once an epoch.
        until_stop: How many steps lie between two looks whether to stop or to write: those of a call of
            Lightning's loop, unless nobody minds where it ends.
        signals: Where signals ask for a stop.
        resume: The checkpoint that the training resumes from.
        check: Called with trainer and module before each is written; raises if these weights are none
            to keep.
        identity: Of the run, see ``TrainingJob.identity``.
        keep: Write files; False only looks for signals.
        ranks: The processes of the training, all of which stop together.
    """

    at_each_step = True

    def __init__(
        self,
        folder: RunFolder,
        *,
        monitor: str | None,
        mode: str,
        signals: StopSignals,
        every_n_steps: int | None = None,
        until_stop: int = 1,
        resume: ResumePoint | None = None,
        check: Callable[[L.Trainer, L.LightningModule], None] = lambda _trainer, _module: None,
        identity: str = "",
        keep: bool = True,
        ranks: Ranks = ALONE,
    ) -> None:
        self._folder, self._monitor, self._mode = folder, monitor, mode
        self._signals, self._every, self._keep = signals, every_n_steps, keep
        self._resume, self._check, self._identity = resume, check, identity
        self._ranks, self._until_stop = ranks, until_stop
        self._best = -math.inf
        self._saving: Position | None = None
        self._saved_step = -1
        self._seconds_before = resume.position.seconds if resume else 0.0
        self._start = clock()

    @property
    def keeps_best(self) -> bool:
        """Whether a best.ckpt has been written."""
        return self._keep and self._best > -math.inf

    @property
    def seconds(self) -> float:
        """How long the fit has taken, what came before a resumption included, without what is compiled."""
        return self._seconds_before + clock() - self._start

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = clock()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the ranks agree on a stop by our own signals alone."""
        if self._ranks.count > 1:
            ask_no_rank_for_sigterm(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Resume where the checkpoint was written, write one, stop: whichever is due."""
        if self._resume is not None:
            self._resume.take_content()  # which a sharded strategy has read by itself
            _restore_random(self._resume.position.random, self._ranks)
            begin_anew(trainer, self._resume.position.batches_that_stepped)
            self._saved_step = trainer.global_step
            self._resume = None
        # gradients of earlier batches wait, or the rest of a call
        if batch_idx % (trainer.accumulate_grad_batches * self._until_stop):
            return
        stop, step = self._ranks.stop(self._signals.request), trainer.global_step
        over = self._every is not None and _apart(self._saved_step, step, self._every)
        due = step > 0 and (batch_idx == 0 or over)
        if (stop or due) and self._saved_step != step:
            self._save_last(trainer, batch_idx, finished=False)
        if stop:
            raise stop

    def on_test_batch_start(self, *arguments: Any, **options: Any) -> None:
        """Stop: the training is done, and the test is made anew."""
        stop = self._ranks.stop(self._signals.request)
        if stop:
            raise stop

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write best.ckpt, if these are the best weights so far."""
        if trainer.sanity_checking or self._monitor is None:
            return
        value = float(trainer.callback_metrics[self._monitor])
        signed = value if self._mode == "max" else -value
        if math.isfinite(value) and signed > self._best:
            self._check(trainer, pl_module)
            self._best = signed
            self._write(trainer, self._folder.best_checkpoint)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last last.ckpt."""
        self._save_last(trainer, 0, finished=True)

    def _save_last(self, trainer: L.Trainer, batch_idx: int, *, finished: bool) -> None:
        self._check(trainer, trainer.lightning_module)
        for writer in event_writers(trainer.loggers):
            writer.flush()
        self._saving = Position(
            epoch=trainer.current_epoch,
            batch=batch_idx,
            step=trainer.global_step,
            finished=finished,
            batches_that_stepped=steps_logged(trainer),
            random=self._ranks.gather(random_state()),
            logs=self._folder.log_sizes(),
            seconds=self.seconds,
        )
        if self._keep and self._ranks.first:
            _keep_as(self._folder.last_checkpoint, self._folder.previous_checkpoint)
        self._write(trainer, self._folder.last_checkpoint)
        self._saving, self._saved_step = None, trainer.global_step

    def _write(self, trainer: L.Trainer, file: Path) -> None:
        if not self._keep:
            return
        try:
            file.parent.mkdir(exist_ok=True)
            _save(trainer, file)
        except FileNotFoundError:  # the folder was deleted at this very moment
            file.parent.mkdir(exist_ok=True)
            _save(trainer, file)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add whose it is, and to last.ckpt what Lightning leaves out."""
        checkpoint["run"] = self._identity
        if self._saving is None:
            return
        self._saving.write_into(checkpoint)
        if not self._saving.finished:
            # Lightning has counted the batch that is about to be trained on; it shall come again
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            progress["total"]["ready"] -= 1
            progress["current"]["ready"] -= 1
            progress["is_last_batch"] = False

    def state_dict(self) -> dict[str, Any]:
        """The best metric so far, with the sign that makes more of it better."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._best = state_dict["best"]


def _apart(saved: int, step: int, every: int) -> bool:
    """Whether a multiple of ``every`` steps was reached since step ``saved``, −1 for none."""
    return step // every > max(0, saved) // every


def _save(trainer: L.Trainer, file: Path) -> None:
    with every_callback(trainer):
        trainer.save_checkpoint(file, weights_only=False)


def _restore_random(states: Sequence[dict[str, Any]], ranks: Ranks) -> None:
    if len(states) == ranks.count:
        restore_random_state(states[ranks.rank])
    elif ranks.first:  # the others keep those that their seeds gave
        log.warning(
            "the checkpoint is of %d processes: this training by %d continues with other random numbers "
            "for dropout",
            len(states),
            ranks.count,
        )


def _keep_as(file: Path, other: Path) -> None:
    """Let ``other`` be what ``file`` is now, in one step; nothing if there is none."""
    scratch = other.with_name(f".{other.name}{SCRATCH}")
    scratch.unlink(missing_ok=True)
    try:
        try:
            os.link(file, scratch)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links
            shutil.copyfile(file, scratch)
        os.replace(scratch, other)
    except FileNotFoundError:
        return
    scratch.unlink(missing_ok=True)  # two names of one file: the system leaves both
