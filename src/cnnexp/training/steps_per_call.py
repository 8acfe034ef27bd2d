"""Several steps of the optimiser in one call of Lightning's loop: how many, and who sees each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    ProgressBar,
    Timer,
)

__all__ = ["StepsPerCall", "sees_each_step", "settle_steps_per_call"]

StepsPerCall = int | Literal["auto"]

_ENOUGH = (EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint, ProgressBar, Timer)
_OF_STEPS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


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


def settle_steps_per_call(
    asked: StepsPerCall, log_every_n_steps: int, callbacks: Sequence[Callback]
) -> int:
    """How many steps of the optimiser a call has.

    ``auto`` is the number of steps between two rows of the loggers, so that each is the end of a call; but 1
    where one of ``callbacks`` would miss steps by it.
    """
    if asked != "auto":
        return asked
    missing = any(_looks_at_batches(each) and not sees_each_step(each) for each in callbacks)
    return 1 if missing else max(1, log_every_n_steps)


def _looks_at_batches(callback: Callback) -> bool:
    """Whether ``callback`` does anything around a batch; progress bars and the like do without."""
    if isinstance(callback, _ENOUGH):
        return False
    kind = type(callback)
    return any(getattr(kind, hook) is not getattr(Callback, hook) for hook in _OF_STEPS)
