"""Which layers a forward pass calls, and how often, is the network's own affair."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import cnnexp.nn
import cnnexp.tuning
from cnnexp import ops
from cnnexp.tuning import auto, measure, paired
from cnnexp.tuning import calls as network_calls
from cnnexp.tuning import network as network_choice
from cnnexp.tuning.step import Step
from tests.nn.test_checkpoint import fake_times
from tests.nn.test_layers import PAIRS


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "interleaved_times", fake_times())
    monkeypatch.setattr(paired, "LOOKS", (5,))
    monkeypatch.setattr(network_choice, "BUSY", 0.0)  # whatever else the machine does
    monkeypatch.setattr(network_calls, "SLIGHT", 0.0)  # whatever part of so short a pass they take
    auto.forget()
    yield
    auto.forget()


class Net(nn.Module):
    """Two layers that are called, and an extra one, called as ``use`` says."""

    def __init__(self, extra: nn.Module, use: str) -> None:
        super().__init__()
        self.first, self.extra, self.last = nn.Conv2d(1, 2, 3, padding=1), extra, nn.Linear(2, 3)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.use == "twice":
            self.extra(self.extra(x) if self.extra(x).shape == x.shape else x)
        if self.use == ("training" if self.training else "evaluation"):
            self.extra(x)
        if self.use == "forward":  # past the hooks
            self.extra.forward(x)
        if self.use == "checkpoint":
            checkpoint(self.extra, x, use_reentrant=True)
            checkpoint(self.extra, x, use_reentrant=False)
        return self.last(x.mean((2, 3)))


def _extras() -> list[Any]:
    """One layer of each class that takes an image."""
    first = {name: (arguments, options) for name, arguments, options in reversed(PAIRS)}
    return [
        pytest.param(
            name,
            arguments,
            {**options, "return_indices": False} if "return_indices" in options else options,
            id=name,
        )
        for name, (arguments, options) in first.items()
    ]


USES = ("never", "evaluation", "training", "twice", "forward", "checkpoint")


@pytest.mark.parametrize(("name", "arguments", "options"), _extras())
def test_layers_that_are_not_called_keep_torchs_backward(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    images = torch.randn(2, 1, 7, 8)
    for use in USES:
        auto.forget()
        caplog.clear()
        extra = getattr(nn, name)(*arguments, **options)
        network = cnnexp.nn.replace_layers(Net(extra, use), "auto")
        with caplog.at_level(logging.INFO):
            chosen = cnnexp.tuning.choose_algorithms(network, images)
        assert list(chosen) == ["first", "extra", "last"]
        unused = use in ("never", "evaluation")
        said = "the forward pass in training does not call extra: native, torch's own backward"
        assert (said in caplog.text) == unused, use
        assert chosen["extra"] == "native" or not unused
        # what is stored is read again, by a network made anew
        again = cnnexp.nn.replace_layers(Net(getattr(nn, name)(*arguments, **options), use), "auto")
        cnnexp.tuning.pin_algorithms(again, chosen)
        assert cnnexp.nn.layer_algorithms(again) == chosen
        for training in (True, False):
            again.train(training)(images).sum().backward()


def test_many_unused_layers_are_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    extra = nn.Sequential(*(nn.ReLU() for _ in range(9)))
    network = cnnexp.nn.replace_layers(Net(extra, "never"), "auto")
    with caplog.at_level(logging.INFO):
        cnnexp.tuning.choose_algorithms(network, torch.randn(2, 1, 7, 8))
    (line,) = [r.getMessage() for r in caplog.records if "does not call" in r.getMessage()]
    assert "extra.0, extra.1, extra.2, extra.3, extra.4 and 4 more: native" in line


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean() + self.conv(x[..., ::2, ::2]).mean()


def _step_times(monkeypatch: pytest.MonkeyPatch, costs: dict[str, float]) -> None:
    """Run every step, and say of it what the algorithm of the layer ``conv`` costs."""

    def seconds(step: Step, algorithms: dict[str, str]) -> float:
        run(step, algorithms)
        return costs[algorithms["conv"]]

    run = Step.seconds
    monkeypatch.setattr(Step, "seconds", seconds)


def test_a_layer_of_several_calls_is_promised_what_is_the_fastest_for_all_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    native = {"native": 4.0}
    seconds = {8: {"direct": 0.5, "im2col": 2.0, "fft": 0.1, **native}}
    seconds[4] = {"direct": 5.0, "im2col": 3.0, **native}  # which fft does not take

    def times(op: str, arguments: Any, *_: Any) -> dict[str, float]:
        return seconds[arguments[0].size(-1)]

    monkeypatch.setattr(network_calls, "measure", times)
    _step_times(monkeypatch, {"native": 10.0, "im2col": 8.0})
    network = cnnexp.nn.replace_layers(Twice(), "auto")
    found = cnnexp.tuning.choose_step(network, torch.randn(1, 1, 8, 8))
    assert found == cnnexp.tuning.StepChoice({"conv": "im2col"}, 0.8)
    assert str(found) == "the step takes 0.80 × torch's own: im2col ×1"


def test_what_is_known_of_a_network_is_not_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(network_calls, "measure", lambda *_: {"native": 1.0, "direct": 0.5})
    _step_times(monkeypatch, {"native": 10.0, "direct": 7.0})

    def choose(size: int = 8) -> cnnexp.tuning.StepChoice:
        network = cnnexp.nn.replace_layers(Twice(), "auto", quiet=True)
        return cnnexp.tuning.choose_step(network, torch.randn(1, 1, size, size))

    with caplog.at_level(logging.INFO):
        first = choose()
        assert caplog.text.count("measuring the network's step") == 1
        monkeypatch.setattr(network_calls, "measure", lambda *_: pytest.fail("measured"))
        monkeypatch.setattr(Step, "seconds", lambda *_: pytest.fail("run"))
        assert choose() == first == cnnexp.tuning.StepChoice({"conv": "direct"}, 0.7)
    assert caplog.text.count("measuring the network's step") == 1
    with pytest.raises(pytest.fail.Exception, match="measured"):
        choose(10)  # another batch
    file = tmp_path / "algorithms.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"direct"', '"gone"'))
    with pytest.raises(pytest.fail.Exception, match="measured"):
        choose()  # what it names is not there any more


def test_what_is_measured_on_a_busy_machine_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(network_calls, "measure", lambda op, *_: looked.append(op) or {})
    for busy, times in ((2.0, 1), (0.0, 2), (2.0, 2)):  # more than all of the time, and none
        monkeypatch.setattr(network_choice, "BUSY", busy)
        network = cnnexp.nn.replace_layers(Twice(), "auto", quiet=True)
        with caplog.at_level(logging.INFO):
            cnnexp.tuning.choose_algorithms(network, torch.randn(1, 1, 7, 7))
        assert looked == ["conv2d", "conv2d"] * times  # of two sizes
    assert caplog.text.count("so what was measured is not kept: the next run measures again") == 1


def test_where_time_is_up_no_further_call_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def times(op: str, *_: Any) -> dict[str, float]:
        looked.append(op)
        return {"native": 1.0, "direct": 0.5 if op == "conv2d" else 2.0}

    def choose(budget: float) -> dict[str, str]:
        monkeypatch.setattr(network_choice, "_BUDGET", budget)
        looked.clear()
        layers = (nn.Conv2d(1, 1, 2), nn.GELU(), nn.Conv2d(1, 1, 1), nn.GELU(), nn.Conv2d(1, 1, 1))
        network = cnnexp.nn.replace_layers(nn.Sequential(*layers), "auto")
        return cnnexp.tuning.choose_algorithms(network, torch.randn(round(9 + budget), 1, 8, 8))

    monkeypatch.setattr(network_calls, "measure", times)
    monkeypatch.setattr(
        Step, "seconds", lambda _, way: 2.0 - list(way.values()).count("direct") / 9
    )
    assert set(choose(-1.0).values()) == {"native"}
    assert looked == []
    assert list(choose(60.0).values()) == ["direct", "native", "direct", "native", "direct"]
    assert looked == ["conv2d", "gelu", "conv2d"]  # once for each kind of call


def test_a_promise_that_the_step_does_not_keep_leaves_torchs_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network_calls, "measure", lambda *_: {"native": 1.0, "direct": 0.5})
    _step_times(monkeypatch, {"native": 10.0, "direct": 10.1})
    network = cnnexp.nn.replace_layers(Twice(), "auto")
    found = cnnexp.tuning.choose_step(network, torch.randn(1, 1, 8, 8))
    assert found == cnnexp.tuning.StepChoice({"conv": "native"}, 1.0)
    assert str(found) == "the step is torch's own: native ×1"
    assert str(cnnexp.tuning.choose_step(nn.ReLU(), torch.ones(1))) == "nothing to choose"


def test_a_step_that_cannot_be_run_leaves_torchs_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(network_calls, "measure", lambda *_: {"native": 1.0, "direct": 0.5})
    network = cnnexp.nn.replace_layers(Twice(), "auto")

    def refuse(*_: Any) -> None:
        raise ValueError("no loss of mine")

    network.conv.register_full_backward_pre_hook(refuse)
    chosen = cnnexp.tuning.choose_algorithms(network, torch.randn(1, 1, 8, 8))
    assert chosen == {"conv": "native"}
    assert "the step cannot be measured here, native is kept: no loss of mine" in caplog.text


def test_a_compiled_network_is_measured_as_it_is_without_compiling() -> None:
    network = cnnexp.nn.replace_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), "auto")
    compiled = torch.compile(network, backend=lambda *_: pytest.fail("compiled"))
    chosen = cnnexp.tuning.choose_algorithms(compiled, torch.randn(2, 1, 6, 6))  # pyright: ignore[reportArgumentType]
    assert set(chosen) == {"_orig_mod.0"}
    assert chosen["_orig_mod.0"] in ops.algorithm_names("conv2d")


def test_the_first_choice_for_a_call_holds_with_and_without_gradients() -> None:
    """So that a region that is computed twice does the same twice."""
    image, weight = torch.randn(2, 2, 6, 6), torch.randn(3, 2, 3, 3, requires_grad=True)
    names: list[str] = []
    for first in (torch.no_grad, torch.enable_grad):
        auto.forget()
        algorithms = []
        for mode in (first, torch.no_grad, torch.enable_grad):
            with mode():
                ops.conv2d(image, weight, algorithm="auto")
                ops.conv2d(image.clone().requires_grad_(), weight, algorithm="auto")
            algorithms.append({a.name for a in auto._ready.values()})
        assert len(algorithms[0]) == 1
        assert algorithms == algorithms[:1] * 3
        names += algorithms[0]
    assert names


def test_a_momentum_that_changes_is_no_new_kind_of_call() -> None:
    layer = cnnexp.nn.BatchNorm2d(2, momentum=None, algorithm="auto")
    for _ in range(3):
        layer(torch.randn(2, 2, 3, 3))
    assert len(auto._ready) == 1


class Slow(nn.Module):
    """A layer, and a clock that goes by the images; ``sizes`` says how many images each pass had."""

    def __init__(self, sizes: list[int], only: int = 0) -> None:
        super().__init__()
        self.conv, self.note, self.only = nn.Conv2d(1, 1, 3), sizes.append, only

    def forward(self, x: Tensor) -> Tensor:
        if self.only and len(x) != self.only:
            raise ValueError("another size")
        self.note(len(x))
        return self.conv(x)


@pytest.mark.parametrize(
    ("whole", "expected"), [(0.5, ({"conv": "direct"}, 0.5)), (1.5, ({"conv": "native"}, 1.0))]
)
def test_a_long_step_is_measured_on_few_images_and_the_whole_batch_has_the_last_word(
    whole: float, expected: tuple[dict[str, str], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(network_choice, "clock", lambda: 0.2 * sum(sizes) / 16)
    monkeypatch.setattr(network_calls, "measure", lambda *_: {"native": 2.0, "direct": 1.0})

    def seconds(step: Step, algorithms: dict[str, str]) -> float:
        run(step, algorithms)
        return {"native": 1.0, "direct": 0.7 if sizes[-1] < 16 else whole}[algorithms["conv"]]

    run = Step.seconds
    monkeypatch.setattr(Step, "seconds", seconds)
    network = cnnexp.nn.replace_layers(Slow(sizes), "auto", quiet=True)
    found = cnnexp.tuning.choose_step(network, torch.randn(16, 1, 5, 5))
    assert (found.layers, found.ratio) == expected
    # a tenth of a second's are 3 at 0.6 s for 16; 8 are multiplied together
    assert set(sizes) == {16, 8}
    assert sizes.index(8) == 3


def test_a_network_of_one_size_of_batch_is_measured_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(network_choice, "clock", lambda: 0.2 * sum(sizes) / 16)
    _step_times(monkeypatch, {"native": 1.0, "direct": 0.7})
    monkeypatch.setattr(network_calls, "measure", lambda *_: {"native": 2.0, "direct": 1.0})
    network = cnnexp.nn.replace_layers(Slow(sizes, only=16), "auto", quiet=True)
    assert cnnexp.tuning.choose_step(network, torch.randn(16, 1, 5, 5)).layers == {"conv": "direct"}
    assert set(sizes) == {16}
