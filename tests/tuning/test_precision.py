"""Whether bfloat16 is chosen: by the clock alone, remembered, and never where it cannot be run."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cnnexp.nn
from cnnexp.tuning import (
    PrecisionChoice,
    StepChoice,
    choose_precision,
    multiplies_bfloat16,
    paired,
    precision,
)
from cnnexp.tuning import calls as network_calls
from cnnexp.tuning import network as network_choice
from cnnexp.tuning.step import Step


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    monkeypatch.setattr(paired, "LOOKS", (5,))
    monkeypatch.setattr(network_choice, "BUSY", 0.0)  # whatever else the machine does
    monkeypatch.setattr(network_calls, "SLIGHT", 0.0)  # whatever part of so short a pass they take
    monkeypatch.setattr(network_calls, "measure", lambda *_: {"native": 1.0, "direct": 0.5})


def full(network: nn.Module, images: Tensor) -> Tensor:
    return network(images)


def half(network: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return network(images)


# seconds of a step by precision and the convolution's algorithm
Costs = dict[tuple[str, str], float]


def _step_times(monkeypatch: pytest.MonkeyPatch, costs: Costs) -> list[str]:
    """Run every step, and say of it what ``costs`` has; the precision of each is noted."""
    noted = []

    def seconds(step: Step, algorithms: dict[str, str]) -> float:
        run(step, algorithms)
        step._renew()
        output = step._forward()
        noted.append(str(output.dtype).removeprefix("torch."))
        return costs[noted[-1], algorithms["0"]]

    run = Step.seconds
    monkeypatch.setattr(Step, "seconds", seconds)
    return noted


def _network() -> nn.Module:
    """A convolution by auto, and other layers that change in each step."""
    torch.manual_seed(0)
    first = cnnexp.nn.Conv2d(1, 2, 3, algorithm="auto")
    return nn.Sequential(first, nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout())


IMAGES = torch.arange(72.0).reshape(2, 1, 6, 6) / 72


@pytest.mark.parametrize(
    ("costs", "bfloat16", "layers", "ratio"),
    [
        # each with its best: direct pays in float32 alone, and bfloat16 gains all the same
        ((10.0, 8.0, 6.0, 9.0), True, "native", 0.75),
        # and where direct pays in bfloat16 alone, it is what makes bfloat16 the faster one
        ((10.0, 11.0, 12.0, 5.0), True, "direct", 0.5),
        ((10.0, 8.0, 9.0, 9.5), False, "direct", 1.125),
        # too little to give digits away for
        ((10.0, 12.0, 9.8, 12.0), False, "native", 0.98),
        ((10.0, 12.0, 10.0, 12.0), False, "native", 1.0),
    ],
)
def test_the_faster_step_is_chosen_each_with_its_own_algorithms(
    costs: tuple[float, ...],
    bfloat16: bool,
    layers: str,
    ratio: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways = [(kind, way) for kind in ("float32", "bfloat16") for way in ("native", "direct")]
    noted = _step_times(monkeypatch, dict(zip(ways, costs, strict=True)))
    found = choose_precision(_network(), IMAGES, full, half)
    assert (found.bfloat16, found.ratio) == (bfloat16, pytest.approx(ratio, abs=1e-4))
    assert found.step.layers == {"0": layers}
    assert {"float32", "bfloat16"} == set(noted)


def test_algorithms_that_are_given_are_those_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {("float32", "im2col"): 10.0, ("bfloat16", "im2col"): 7.0}
    _step_times(monkeypatch, costs)  # and no other is run
    found = choose_precision(_network(), IMAGES, full, half, {"0": "im2col"})
    assert found == PrecisionChoice(True, StepChoice({"0": "im2col"}, 1.0), 0.7)


def test_the_network_and_the_random_numbers_are_as_before() -> None:
    network = _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    choose_precision(network, IMAGES, full, half)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(state, torch.get_rng_state())
    assert cnnexp.nn.layer_algorithms(network) == {"0": "auto"}
    assert all(p.grad is None for p in network.parameters())


def test_what_is_known_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose_precision(_network(), IMAGES, full, half)
    monkeypatch.setattr(precision, "compare", lambda *_: pytest.fail("measured"))
    assert choose_precision(_network(), IMAGES, full, half).ratio == first.ratio
    with pytest.raises(pytest.fail.Exception, match="measured"):  # another batch is another case
        choose_precision(_network(), IMAGES[:1].repeat(3, 1, 1, 1), full, half)


def test_what_is_measured_on_a_busy_machine_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured = []
    ours = precision.compare
    monkeypatch.setattr(precision, "compare", lambda *each: (measured.append(1), ours(*each))[1])
    for busy, times in ((2.0, 1), (0.0, 2), (2.0, 2)):  # more than all of the time, and none
        monkeypatch.setattr(network_choice, "BUSY", busy)
        with caplog.at_level(logging.INFO):
            choose_precision(_network(), IMAGES, full, half)
        assert len(measured) == times
    assert "precision auto: other programs took the processor" in caplog.text


def test_a_network_that_fails_in_bfloat16_stays_in_float32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            if y.dtype != torch.float32:
                raise TypeError("whole numbers of bits, please")
            return y

    network = cnnexp.nn.replace_layers(Strict(), "auto", quiet=True)
    with caplog.at_level(logging.WARNING):
        found = choose_precision(network, IMAGES, full, half)
    assert not found.bfloat16
    assert math.isinf(found.ratio)
    assert set(found.step.layers) == {"linear"}
    assert "cannot be measured in bfloat16: whole numbers of bits, please" in caplog.text


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({}, False),
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
    ],
)
def test_bfloat16_needs_instructions(
    able: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert multiplies_bfloat16(torch.device("cpu")) is expected
    assert not multiplies_bfloat16(torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not expected)
    assert multiplies_bfloat16(torch.device("cuda")) is not expected
