"""``algorithm="auto"``: measured once, remembered in memory and in a file, out of the way elsewhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cnnexp import ops
from cnnexp.tuning import auto, recorded_choices
from cnnexp.tuning import measure as measuring

# the oracle is not the fastest, and this convolution has more than one kernel a channel
MEASURED = set(ops.algorithm_names("conv2d")) - {"reference", "depthwise", "implicit_gemm"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path / "cache"))
    auto.forget()
    yield tmp_path / "cache" / "algorithms.json"
    auto.forget()


def _entries(cache: Path) -> dict[str, dict[str, object]]:
    return json.loads(cache.read_text(encoding="utf-8"))


def _tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 3, 12, 12), torch.randn(8, 3, 3, 3, requires_grad=True)


def test_the_fastest_is_taken_and_remembered(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, weight = _tensors()
    with caplog.at_level(logging.DEBUG), recorded_choices(lambda op, name: names.append(name)):
        names: list[str] = []
        output = ops.conv2d(image, weight, algorithm="auto")
    (entry,) = _entries(cache).values()
    times = entry["milliseconds"]
    assert isinstance(times, dict)
    assert set(times) == MEASURED
    assert names == [entry["algorithm"]] == [min(times, key=times.__getitem__)]
    assert "backward auto: measuring" in caplog.text
    assert f"backward auto: conv2d takes {names[0]}" in caplog.text
    expected = ops.conv2d(image, weight, algorithm=names[0])
    assert torch.equal(output, expected)

    monkeypatch.setattr(auto, "measure", lambda *_: pytest.fail("measured again"))
    ops.conv2d(image, weight, algorithm="auto")  # from memory
    auto.forget()
    ops.conv2d(image, weight, algorithm="auto")  # from the file


def test_another_shape_dtype_or_layout_is_another_choice(cache: Path) -> None:
    image, weight = _tensors()
    ops.conv2d(image, weight, algorithm="auto")
    ops.conv2d(image[:2], weight, algorithm="auto")
    ops.conv2d(image.double(), weight.double(), algorithm="auto")
    ops.conv2d(image.contiguous(memory_format=torch.channels_last), weight, algorithm="auto")
    ops.conv2d(image, weight, padding=1, algorithm="auto")
    assert len(_entries(cache)) == 5


def test_measuring_changes_nothing_of_the_callers() -> None:
    mean, variance = torch.zeros(3), torch.ones(3)
    image = torch.randn(4, 3, 5, 5)
    before = torch.random.get_rng_state()
    ops.batch_norm(image, mean, variance, training=True, algorithm="auto")
    ops.dropout(image, algorithm="direct")  # draws once
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    ops.dropout(image, algorithm="direct")
    assert torch.equal(torch.random.get_rng_state(), after)
    expected = torch.zeros(3).lerp(image.mean((0, 2, 3)), 0.1)
    torch.testing.assert_close(mean, expected)  # moved once


def test_a_broken_file_is_replaced(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text('{"half an ent', encoding="utf-8")
    ops.conv2d(*_tensors(), algorithm="auto")
    assert len(_entries(cache)) == 1


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path / "file" / "below"))
    assert ops.conv2d(*_tensors(), algorithm="auto").shape == (4, 8, 10, 10)


def test_a_file_that_names_an_unknown_algorithm_is_measured_anew(cache: Path) -> None:
    ops.conv2d(*_tensors(), algorithm="auto")
    entries = _entries(cache)
    for entry in entries.values():
        entry["algorithm"] = "gone"
    cache.write_text(json.dumps(entries), encoding="utf-8")
    auto.forget()
    ops.conv2d(*_tensors(), algorithm="auto")
    assert {entry["algorithm"] for entry in _entries(cache).values()} <= MEASURED


def test_where_nothing_can_be_measured_the_default_computes(cache: Path) -> None:
    image, weight = _tensors()

    def loss(w: torch.Tensor) -> torch.Tensor:
        return ops.conv2d(image, w, algorithm="auto").square().sum()

    grad = torch.func.grad(loss)(weight.detach())
    expected = torch.autograd.grad(ops.conv2d(image, weight).square().sum(), weight)[0]
    torch.testing.assert_close(grad, expected)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(weight), weight)[0], expected)
    assert ops.conv2d(image.to("meta"), weight.to("meta"), algorithm="auto").device.type == "meta"
    assert not cache.exists()


def test_wrong_arguments_are_refused_as_ever() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        ops.conv2d(torch.randn(1, 2, 5, 5), torch.randn(3, 4, 3, 3), algorithm="auto")


def test_calls_are_heard_and_computed_by_torch_without_measuring(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "measure", lambda *_: pytest.fail("measured"))
    image, weight = _tensors()
    heard: list[auto.Heard] = []
    with auto.heard_calls(heard.append):
        output = ops.conv2d(image, weight, algorithm="auto")
        with torch.no_grad():
            ops.conv2d(image, weight, algorithm="auto")
        ops.conv2d(image[:2], weight, algorithm="auto")
        ops.conv2d(image, weight, algorithm="direct")  # nobody is asked
    assert torch.equal(output, torch.nn.functional.conv2d(image, weight))
    assert [call.op for call in heard] == ["conv2d"] * 3
    assert heard[0].arguments[1] is weight
    assert heard[0].needs[:2] == (False, True)
    assert heard[1].needs[:2] == (True, True)  # outputs of other layers require none there
    assert len({call.key for call in heard}) == 3
    assert all(call.measurable for call in heard)
    assert not cache.exists()


def test_what_is_far_behind_twice_is_not_called_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: dict[str, int] = {}
    seconds = {"native": 1.0, "direct": 2.5, "im2col": 11.0, "fft": 1.2, "narrow": 12.0}
    spent = [0.0]

    def step(algorithm: ops.Algorithm, *_: object) -> None:
        calls[algorithm.name] = calls.get(algorithm.name, 0) + 1
        loads = 30.0 if algorithm.name == "fft" and calls["fft"] == 1 else 0.0
        spent[0] += seconds[algorithm.name] + loads

    monkeypatch.setattr(measuring, "_step", step)
    monkeypatch.setattr(measuring, "clock", lambda: spent[0])
    monkeypatch.setattr("time.perf_counter", lambda: spent[0])
    image, weight = _tensors()
    arguments = (image, weight, None, 1, 0, 1, 1)
    needs = (True, True, False, False, False, False, False)
    times = measuring.measure("conv2d", arguments, {}, needs, measuring.QUICK)
    assert times == pytest.approx(seconds)
    assert calls["im2col"] == calls["narrow"] == 2
    assert calls["direct"] == 1 + 2  # one look
    assert calls["native"] == calls["fft"] == 2 + 2 + 2 * measuring.QUICK.rounds
    calls.clear()
    times = measuring.measure("conv2d", arguments, {}, needs)
    assert times == pytest.approx(seconds)
    assert calls["im2col"] == calls["narrow"] == 2
    assert min(calls[name] for name in ("native", "direct", "fft")) > 5
    calls.clear()
    times = measuring.measure("conv2d", arguments, {}, needs, measuring.QUICK, ["fft", "narrow"])
    assert times.keys() == calls.keys() == {"native", "direct", "im2col"}
