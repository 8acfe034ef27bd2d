"""A short turn calls what Lightning's own turn calls, in its order, and leaves all counters as that does."""

from __future__ import annotations

import copy
import inspect
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

import cnnexp.training.callbacks
from cnnexp import optim
from cnnexp.training import Classifier
from cnnexp.training.lightning_loop import take_steps_per_call
from cnnexp.training.lightning_turn import AROUND_A_BATCH, ShortTurn, is_written
from cnnexp.training.steps_per_call import Calls
from tests.training.lightning_parts import fit, quiet_trainer

Events = list[tuple[Any, ...]]
_OF_DATA = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def _noted(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """What can be compared of a hook's arguments: numbers to the bit, and of optimisers the kind."""
    kept = []
    for each in given:
        if isinstance(each, Tensor):
            kept.append(("tensor", each.sum().item()))
        elif isinstance(each, torch.optim.Optimizer):
            kept.append(("optimizer", isinstance(each, torch.optim.SGD)))
        elif isinstance(each, dict):
            kept.append(tuple((name, float(value)) for name, value in each.items()))
        elif isinstance(each, int):
            kept.append(each)
    return tuple(kept)


def _callbacks(trainer: Any) -> list[Callback]:
    return trainer.callbacks


class Hears(Callback):
    """Notes each hook around a batch."""

    def __init__(self, events: Events) -> None:
        self.events = events
        for name in AROUND_A_BATCH:
            setattr(self, name, self._hook(name))

    def _hook(self, name: str) -> Any:
        def hook(trainer: L.Trainer, module: Any, *given: Any) -> None:
            by = module._current_fx_name
            at = (trainer.global_step, trainer.is_last_batch, len(_callbacks(trainer)), by)
            self.events.append((name, *at, *_noted(given)))
            if name != "on_train_batch_end":
                module.log(f"callback/{name}", float(trainer.global_step))

        return hook


class Speaks(BoringModel):
    """Notes each of its hooks, and by which name it would log."""

    def __init__(self, events: Events, returned: str) -> None:
        super().__init__()
        self.events, self.returned = events, returned
        for name in (*AROUND_A_BATCH, *_OF_DATA, "configure_gradient_clipping", "optimizer_step"):
            setattr(self, name, self._hook(name, getattr(self, name)))
        self.optimizer_zero_grad = self._hook("optimizer_zero_grad", self.optimizer_zero_grad)

    def _hook(self, name: str, before: Any) -> Any:
        def hook(*given: Any, **named: Any) -> Any:
            by = None if name in _OF_DATA else self._current_fx_name  # these log nothing
            self.events.append((f"module.{name}", self.global_step, by, *_noted(given), *named))
            done = before(*given, **named)
            assert by in (None, self._current_fx_name)  # it is what it was
            leaves = self.returned == "-1" and name == "on_train_batch_start" and given[1] == 4
            return -1 if leaves else done

        return hook

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(self.layer(batch))
        by = self._current_fx_name
        self.events.append(("module.training_step", batch_idx, loss.item(), by))
        self.log("loss", loss)
        returned = {
            "dict": {"loss": loss, "more": 3.0},
            "None": None if batch_idx == 2 else loss,
        }
        return returned.get(self.returned, loss)

    def configure_optimizers(self) -> Any:
        if self.returned == "closure called again":
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)
        kind = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(kind, 2, 0.5)
        return [kind], [{"scheduler": schedule, "interval": "step"}]


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches of which a short turn was taken."""
    taken: list[int] = []
    own = ShortTurn.__call__

    def call(self: Any, fetcher: Any) -> None:
        taken.append(self._loop.batch_idx + 1)
        own(self, fetcher)

    monkeypatch.setattr(ShortTurn, "__call__", call)
    return taken


def _run(returned: str, steps: int, *more: Callback, **settings: Any) -> tuple[Events, Any, Any]:
    torch.manual_seed(0)
    events: Events = []
    model = Speaks(events, returned)
    wanted = {"limit_train_batches": 9, "log_every_n_steps": 4, "max_epochs": 2}
    trainer = quiet_trainer(Hears(events), *more, **wanted | settings)
    take_steps_per_call(trainer, Calls(steps), lambda _: True)
    torch.manual_seed(1)
    fit(trainer, model)
    return events, copy.deepcopy(trainer.fit_loop.state_dict()), model.state_dict()


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "a tensor": ("tensor", {}),
    "a dict": ("dict", {}),
    "nothing": ("None", {}),
    "the epoch's end": ("-1", {}),
    "a closure called again": ("closure called again", {}),
    "clipped": ("tensor", {"gradient_clip_val": 0.1}),
    "in bfloat16": ("tensor", {"precision": "bf16-mixed"}),
    "so many steps": ("tensor", {"max_steps": 13, "max_epochs": -1}),
}


@pytest.mark.filterwarnings("ignore:.*returned `None`", "ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("way", WAYS)
def test_it_is_lightnings_own_turn(way: str, turns: list[int]) -> None:
    returned, settings = WAYS[way]
    theirs = _run(returned, 1, **settings)
    assert not turns
    ours = _run(returned, 9, **settings)
    assert turns[:2] == [1, 2]  # the first step logs, and the fourth, whose row the loggers get
    assert turns[2] == 4  # where one way ends the epoch
    assert ours[0] == theirs[0]
    assert str(ours[1]) == str(theirs[1])
    for name, weight in theirs[2].items():
        assert torch.equal(weight, ours[2][name])


class _Counts(torch.optim.SGD):
    """Keeps its gradients where they are, as zeros, and counts how often."""

    cleared = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Fill with zeros."""
        self.cleared += 1
        super().zero_grad(set_to_none=False)


class _Clears(BoringModel):
    """Notes the gradients that a step begins its backward with."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind, self.found = kind, []

    def on_before_backward(self, loss: Tensor) -> None:
        grads = [each.grad for each in self.parameters()]
        self.found.append([None if each is None else each.abs().sum().item() for each in grads])

    def configure_optimizers(self) -> Any:
        return self.kind(self.parameters(), lr=0.1)


@pytest.mark.parametrize("kind", [torch.optim.SGD, _Counts])
def test_gradients_are_cleared_as_the_optimiser_does(kind: Any, turns: list[int]) -> None:
    found = []
    for steps in (1, 8):
        torch.manual_seed(0)
        model = _Clears(kind)
        trainer = quiet_trainer(limit_train_batches=8, log_every_n_steps=8, max_epochs=1)
        take_steps_per_call(trainer, Calls(steps), lambda _: True)
        fit(trainer, model)
        (optimizer,) = trainer.optimizers
        cleared = optimizer.cleared if isinstance(optimizer, _Counts) else 0
        found.append((model.found, cleared, [each.tolist() for each in model.parameters()]))
    assert len(turns) == 6  # all but the first, which logs, and the last
    assert found[1] == found[0]
    expected = ([None, None], 0) if kind is torch.optim.SGD else ([0.0, 0.0], 8)
    assert (found[0][0][-1], found[0][1]) == expected


class _Looks(BoringModel):
    """Notes whether there are gradients while its step computes."""

    def __init__(self, reads: bool | None) -> None:
        super().__init__()
        self.cleared: list[bool] = []
        if reads is not None:
            self.reads_old_gradients = reads

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.cleared.append(self.layer.weight.grad is None)
        return super().training_step(batch, batch_idx)


class _BeforeClearing(Callback):
    """Notes whether there are gradients to be cleared."""

    at_each_step = True

    def __init__(self) -> None:
        self.found: list[bool] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.found.append(pl_module.layer.weight.grad is not None)


class _SaysSo(BoringModel):
    reads_old_gradients = False


class _LooksYet(_Looks, _SaysSo):
    """With a step of its own, of which the class below says nothing."""


@pytest.mark.parametrize("kind", [_Looks, _LooksYet])
@pytest.mark.parametrize(("reads", "early"), [(None, False), (True, False), (False, True)])
@pytest.mark.parametrize("heard", [False, True])
def test_gradients_that_nobody_reads_are_cleared_before_the_step(
    kind: Any, reads: bool | None, early: bool, heard: bool, turns: list[int]
) -> None:
    model, hears = kind(reads), _BeforeClearing()
    callbacks = [hears] if heard else []
    trainer = quiet_trainer(*callbacks, limit_train_batches=8, log_every_n_steps=8, max_epochs=1)
    take_steps_per_call(trainer, Calls(8), lambda _: True)
    fit(trainer, model)
    assert len(turns) == 6
    assert model.cleared[1:7] == [early and not heard] * 6
    assert hears.found[1:] == ([True] * 7 if heard else [])


@pytest.mark.parametrize("kind", [torch.optim.Adam, optim.Adam, optim.SGD, optim.Adagrad])
def test_so_they_are_by_our_optimisers(kind: Any, turns: list[int]) -> None:
    class Model(_Looks):
        def configure_optimizers(self) -> Any:
            return kind(self.parameters(), lr=0.01, fused=True)

    model = Model(reads=False)
    trainer = quiet_trainer(limit_train_batches=8, log_every_n_steps=8, max_epochs=1)
    take_steps_per_call(trainer, Calls(8), lambda _: True)
    fit(trainer, model)
    assert len(turns) == 6
    assert model.cleared[1:7] == [True] * 6


def test_no_callback_of_a_run_keeps_the_gradients() -> None:
    for file in iter_modules(cnnexp.training.callbacks.__path__, "cnnexp.training.callbacks."):
        import_module(file.name)
    own = [kind for kind in Callback.__subclasses__() if kind.__module__.startswith("cnnexp.")]
    assert len(own) > 10
    assert Classifier.reads_old_gradients is False
    for kind in own:
        assert kind.on_before_zero_grad is Callback.on_before_zero_grad, kind


@pytest.mark.parametrize(
    "settings",
    [{"accumulate_grad_batches": 2}, {"precision": "64-true"}, {"profiler": "simple"}],
    ids=str,
)
def test_what_it_does_not_serve_is_lightnings_own(
    settings: dict[str, Any], turns: list[int]
) -> None:
    theirs, ours = _run("tensor", 1, **settings), _run("tensor", 9, **settings)
    assert not turns
    assert ours[0] == theirs[0]


def test_a_callback_may_end_the_training_within_a_call(turns: list[int]) -> None:
    class Ends(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            trainer.should_stop = trainer.global_step == 6

    theirs, ours = _run("tensor", 1, Ends()), _run("tensor", 9, Ends())
    assert turns == [1, 2, 4, 5]
    assert ours[0] == theirs[0]
    assert str(ours[1]) == str(theirs[1])


def test_no_row_has_values_of_another_step(turns: list[int]) -> None:
    """Those of a step that ends the training within a call were not logged."""
    rows: list[tuple[int | None, dict[str, Any]]] = []

    class Rows(DummyLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            rows.append((step, {name: round(value, 6) for name, value in metrics.items()}))

    class Ends(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            trainer.should_stop = trainer.global_step == 6

    _run("tensor", 1, Ends(), logger=Rows())
    theirs, rows[:] = [*rows], []
    _run("tensor", 9, Ends(), logger=Rows())
    assert turns
    assert [step for step, _ in theirs] == [3, 5]
    assert rows == theirs[:1]


def test_a_step_that_calls_no_closure_is_told_of() -> None:
    class Forgets(BoringModel):
        def optimizer_step(self, *given: Any, **named: Any) -> None:
            if self.global_step:
                return
            super().optimizer_step(*given, **named)

    trainer = quiet_trainer()
    take_steps_per_call(trainer, Calls(9), lambda _: True)
    with pytest.raises(
        MisconfigurationException, match="optimizer_step has not called the closure"
    ):
        fit(trainer, Forgets())


def test_a_step_need_not_take_the_number_of_its_batch(turns: list[int]) -> None:
    class Plain(BoringModel):
        def training_step(self, batch: Any) -> Any:  # pyright: ignore
            return super().training_step(batch, 0)

    trainer = quiet_trainer(log_every_n_steps=100)
    take_steps_per_call(trainer, Calls(9), lambda _: True)
    fit(trainer, Plain())
    assert turns == [1]


def test_a_hook_of_ones_own_is_one_of_the_class_or_of_the_instance() -> None:
    class Own(Callback):
        def on_fit_start(self, *_: Any, **__: Any) -> None: ...

    own = Own()
    assert is_written(own, "on_fit_start", Callback)
    assert not is_written(own, "on_fit_end", Callback)
    vars(own)["on_fit_end"] = lambda *_: None
    assert is_written(own, "on_fit_end", Callback)


def test_every_hook_that_lightning_calls_around_a_batch_is_known() -> None:
    """Another one in a later Lightning would be left out."""
    from lightning.pytorch.loops import training_epoch_loop
    from lightning.pytorch.loops.optimization import automatic
    from lightning.pytorch.plugins.precision import precision

    sources = [training_epoch_loop._TrainingEpochLoop.advance, automatic, precision.Precision]
    text = "".join(map(inspect.getsource, sources))
    hooks = {each for each in dir(Callback) if each.startswith("on_") and f'"{each}"' in text}
    assert hooks == set(AROUND_A_BATCH)
