"""Several steps of the optimiser in one call of Lightning's loop: how many, and who sees each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    ProgressBar,
    Timer,
)

from cnnexp.training.lightning_internals import saves_every_steps
from cnnexp.training.lightning_turn import AROUND_A_BATCH, is_written

__all__ = ["Calls", "StepsPerCall", "sees_each_step", "settle_steps_per_call"]

StepsPerCall = int | Literal["auto"]

_SECONDS = 0.2  # more than any turn of Lightning's costs, and less than a user waits for
_ENOUGH = (EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint, ProgressBar, Timer)


def sees_each_step(callback: Callback) -> bool:
    """Whether the hooks of ``callback`` around a batch are called at each step, not once a call.

    An attribute ``at_each_step`` of its class says so. Without one, those that come with Lightning see each
    step, since some of them change the training by it (averages of weights), but those that only show, keep
    or stop; somebody's own see the call.
    """
    said = getattr(callback, "at_each_step", None)
    if said is not None:
        return bool(said)
    if isinstance(callback, _ENOUGH):
        return False
    return any(
        kind is not Callback and kind.__module__.startswith("lightning.")
        for kind in type(callback).__mro__
        if issubclass(kind, Callback)
    )


class Calls(NamedTuple):
    """How the steps of the optimiser are put into calls.

    Attributes:
        steps: Of a call, at most.
        free: Whether nobody minds where a call ends, so that a stop need not wait for it.
        periods: Numbers of steps of the whole training at whose multiples a call ends, too.
    """

    steps: int
    free: bool = False
    periods: tuple[int, ...] = ()

    @property
    def longest(self) -> float | None:
        """Seconds after which a call ends with its next step."""
        return _SECONDS if self.free else None

    @property
    def until_stop(self) -> int:
        """How many steps are done at most before a request to stop is obeyed."""
        return 1 if self.free else self.steps


def settle_steps_per_call(
    asked: StepsPerCall,
    log_every_n_steps: int,
    callbacks: Sequence[Callback],
    *,
    alone: bool = True,
) -> Calls:
    """How many steps of the optimiser a call has.

    ``auto`` is the number of steps between two rows of the loggers; a call ends, too, where one of
    ``callbacks`` keeps weights. It is 1 where one would miss steps by it, and for several processes, which
    would have to end their calls together.

    Args:
        asked: The number, or ``auto``.
        log_every_n_steps: Of the trainer, ≥ 0.
        callbacks: Those that a user has added.
        alone: Whether one process trains.
    """
    if asked != "auto":
        return Calls(asked)
    if not alone or any(_looks_at_batches(each) and not sees_each_step(each) for each in callbacks):
        return Calls(1)
    kept = {saves_every_steps(each) for each in callbacks if isinstance(each, ModelCheckpoint)}
    if 1 in kept:
        return Calls(1)
    return Calls(max(1, log_every_n_steps), True, tuple(sorted(kept - {0})))


def _looks_at_batches(callback: Callback) -> bool:
    """Whether ``callback`` does anything around a batch, beyond what Lightning's bars and the like do."""
    written = [each for each in AROUND_A_BATCH if is_written(callback, each, Callback)]
    if not isinstance(callback, _ENOUGH):
        return bool(written)
    return not all(getattr(callback, each).__module__.startswith("lightning.") for each in written)
