"""Lightning's loop with several steps in a turn, with Lightning's own module and no other part of cnnexp."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from cnnexp.training.lightning_loop import every_callback, is_logged, take_steps_per_call
from cnnexp.training.steps_per_call import Calls
from tests.training.lightning_parts import fit, quiet_trainer


class _Seen(Callback):
    """The batches that it hears of, whether each is logged, and how many callbacks there are."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.logged: list[bool] = []
        self.among: list[tuple[int, int]] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self.begun.append(trainer.global_step)
        self.logged.append(is_logged(trainer.lightning_module))
        some = len(_callbacks(trainer))
        with every_callback(trainer):
            self.among.append((some, len(_callbacks(trainer))))


def _callbacks(trainer: Any) -> list[Callback]:
    return trainer.callbacks


def test_a_turn_of_several_steps_is_heard_of_at_its_last_by_those_who_need_no_more() -> None:
    each, last = _Seen(), _Seen()
    trainer = quiet_trainer(each, last, limit_train_batches=5, log_every_n_steps=100)
    take_steps_per_call(trainer, Calls(2), lambda callback: callback is each)
    fit(trainer)
    assert trainer.global_step == 5
    assert each.begun == [0, 1, 2, 3, 4]
    assert last.begun == [1, 3, 4]  # an epoch ends a turn
    assert each.logged == [True, True, False, True, True]  # the first step is, whatever comes after
    everyone = len(_callbacks(trainer))
    assert [some == everyone for some, _ in each.among] == [False, True, True, True, True]
    assert {all_of_them for _, all_of_them in each.among} == {everyone}


def test_a_turn_of_one_step_is_lightnings_own() -> None:
    seen = _Seen()
    trainer = quiet_trainer(seen)
    before = trainer.fit_loop.epoch_loop
    take_steps_per_call(trainer, Calls(1), lambda _: False)
    assert trainer.fit_loop.epoch_loop is before
    assert is_logged(BoringModel())  # which has no Trainer
    fit(trainer)
    assert (seen.begun, seen.logged) == ([0, 1, 2], [True] * 3)


@pytest.mark.parametrize(("accumulate", "begun"), [(1, [2, 5]), (4, [0, 1])])
def test_a_turn_ends_after_so_much_time(
    accumulate: int, begun: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Callback):
        def on_train_batch_start(self, *_: Any, **__: Any) -> None:
            seconds[0] += 0.15

    seconds = [0.0]
    monkeypatch.setattr("cnnexp.training.lightning_loop.perf_counter", lambda: seconds[0])
    slow, last = Slow(), _Seen()
    settings = {"limit_train_batches": 6 * accumulate, "accumulate_grad_batches": accumulate}
    trainer = quiet_trainer(slow, last, log_every_n_steps=100, **settings)
    take_steps_per_call(trainer, Calls(100, free=True), lambda callback: callback is slow)
    fit(trainer)
    assert last.begun[:2] == begun


def test_a_turn_ends_where_steps_of_the_whole_training_are_a_multiple() -> None:
    slow, last = _Seen(), _Seen()
    trainer = quiet_trainer(slow, last, limit_train_batches=5, log_every_n_steps=100, max_epochs=2)
    take_steps_per_call(trainer, Calls(100, periods=(4,)), lambda callback: callback is slow)
    fit(trainer)
    assert [step + 1 for step in last.begun] == [4, 5, 8, 10]
