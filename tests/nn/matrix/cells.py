"""One cell of the matrix: a network used in a habit and computed in a way, against torch's own."""

from __future__ import annotations

import copy
import math
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import cnnexp.nn
from cnnexp import ops
from cnnexp.tuning import auto
from cnnexp.tuning.choices import ChoiceFile
from tests.nn.matrix.habits import HABITS, Habit
from tests.nn.matrix.networks import build, draw_images
from tests.nn.matrix.steps import Case, Results, step

__all__ = [
    "REFUSED",
    "TOLERANCE",
    "WAYS",
    "Cell",
    "affordable",
    "made_up_times",
    "quick",
    "run_cells",
    "ways_of",
]

WAYS = (
    *sorted({name for op in ops.op_names() for name in ops.algorithm_names(op)}),
    ops.AUTO,
)
TOLERANCE = 1e-8  # of the largest element, in float64
LOW_PRECISION = 4.0  # times torch's own error; one op's is held to 2, a network's layers add up
REFUSED = "torch refuses"
ORACLES = ("reference",)


class Cell(NamedTuple):
    """What came out: ``result`` is "ok", "torch refuses: …", or what is wrong."""

    network: str
    habit: str
    way: str
    result: str
    error: float  # the largest relative one
    where: str  # the tensor that has it
    seconds: float

    @property
    def miss(self) -> bool:
        """Whether ours fails where torch does not, or computes something else."""
        return self.result != "ok" and not self.result.startswith(REFUSED)


def affordable(network: str, habit: str, way: str) -> bool:
    """Whether the cell takes seconds: traced, the oracle's loop over windows is one node a window."""
    unrolled = HABITS[habit].traced and way in ORACLES
    return not unrolled or _windows(network) <= 16


def quick(network: str, habit: str, way: str) -> bool:
    """Whether the cell is one for the test suite: traced are only networks of few modules."""
    use = HABITS[habit]
    few = not use.traced or len(list(_base(network).modules())) <= 32
    return few and (way == ops.AUTO or not use.slow) and affordable(network, habit, way)


@cache
def _windows(network: str) -> int:
    """Positions of all windows of convolutions and poolings."""
    count = [0]

    def add(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        count[0] += output.shape[-2] * output.shape[-1]

    module = copy.deepcopy(_base(network))
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            layer.register_forward_hook(add)
    module(draw_images(network))
    return count[0]


@cache
def ways_of(network: str) -> tuple[str, ...]:
    """The ways in which some layer of ``network`` can be computed, by the registry."""
    found = []
    for way in WAYS:
        converted = cnnexp.nn.replace_layers(copy.deepcopy(_base(network)), way)
        if way in cnnexp.nn.layer_algorithms(converted).values():
            found.append(way)
    return tuple(found)


def run_cells(network: str, habit: str, ways: tuple[str, ...]) -> Iterator[Cell]:
    """The cells of one network and one habit: torch's own is computed once for all ways."""
    use = HABITS[habit]
    start = time.process_time()
    expected, warned = _tried(network, use, lambda module: None)
    truth = _truth(network, use) if use.low_precision else None
    for way in ways:
        if isinstance(expected, str):
            result, error, where = f"{REFUSED}: {expected}", math.nan, ""
        else:
            if use.measured:
                _forget()
            found, warnings_of_ours = _tried(
                network, use, lambda module, way=way: cnnexp.nn.replace_layers(module, way)
            )
            more = warnings_of_ours - warned
            if isinstance(found, str):
                result, error, where = found, math.nan, ""
            else:
                result, error, where = _compare(found, expected, truth)
                if more and result == "ok":
                    result = f"warns: {sorted(more)[0]}"
        yield Cell(network, habit, way, result, error, where, time.process_time() - start)
        start = time.process_time()


def _forget() -> None:
    auto.forget()
    ChoiceFile().path.unlink(missing_ok=True)


@cache
def _base(network: str) -> nn.Module:
    return build(network)


def _tried(
    name: str, habit: Habit, convert: Callable[[nn.Module], object]
) -> tuple[Results | str, set[str]]:
    """What the habit brings forth, or the error; and the warnings on the way."""
    network, twin = copy.deepcopy(_base(name)), copy.deepcopy(_base(name))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for module in (network, twin):
                if habit.prepare is not None:
                    habit.prepare(module)
            convert(network)
            results: Results | str = habit.run(Case(network, twin, draw_images(name)))
        except Exception as error:
            results = _told(error)
    return results, {
        f"{w.category.__name__}: {str(w.message)[:60]}"
        for w in caught
        if "performance drop" not in str(w.message)  # vmap calls an op of torch in a loop
    }


def _told(error: Exception) -> str:
    """The error in one line, with the last place of this project that it passed."""
    places = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/src/cnnexp/" in frame.filename
    ]
    place = f" [{Path(places[-1].filename).name}:{places[-1].lineno}]" if places else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{place}"


def _truth(name: str, habit: Habit) -> Results:
    network = copy.deepcopy(_base(name))
    if habit.prepare is not None:
        habit.prepare(network)
    return step(network, draw_images(name))


def _compare(found: Results, expected: Results, truth: Results | None) -> tuple[str, float, str]:
    """("ok" or what is wrong, largest relative error, where it is)."""
    if set(found) != set(expected):
        missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        return f"other tensors: missing {missing[:5]}, more {more[:5]}", math.nan, ""
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            got = f"{found[name].dtype} {list(found[name].shape)}"
            return f"{name} is {got}, not {tensor.dtype} {list(tensor.shape)}", math.nan, name
    if truth is not None:
        ours, theirs = (_distance(each, truth) for each in (found, expected))
        worst = max(ours, key=lambda kind: ours[kind] / (theirs[kind] + 1e-12))
        allowed = LOW_PRECISION * theirs[worst] + 1e-6
        ok = ours[worst] <= allowed
        text = f"{worst} differ by {ours[worst]:.1e}, torch's own by {theirs[worst]:.1e}"
        return "ok" if ok else text, ours[worst], worst
    errors = _errors(found, expected)
    where = max(errors, key=lambda name: errors[name])
    ok = errors[where] <= TOLERANCE
    return "ok" if ok else f"{where} differs by {errors[where]:.1e}", errors[where], where


def _kind(name: str) -> str:
    return "gradients" if name.startswith("∂") else "results"


def _errors(found: Results, expected: Results) -> dict[str, float]:
    """The largest error of each tensor, relative to its largest element.

    An element counts at least a thousandth of the largest of its kind: the gradient of a bias before
    batch normalisation is 0 up to rounding.
    """
    sizes = {name: _largest(tensor) for name, tensor in expected.items()}
    least = {
        kind: 1e-3 * max((size for name, size in sizes.items() if _kind(name) == kind), default=0)
        for kind in ("gradients", "results")
    }
    errors = {}
    for name, tensor in expected.items():
        error = _largest(found[name].double() - tensor.double())
        size = max(sizes[name], least[_kind(name)])
        errors[name] = 0.0 if error == 0 else error / size if size else math.inf
        if math.isnan(error) or math.isnan(size):
            same = torch.equal(found[name].isnan(), tensor.isnan())
            errors[name] = 0.0 if same and tensor.isnan().all() else math.inf
    return errors


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def _distance(found: Results, truth: Results) -> dict[str, float]:
    """The relative error of outputs, gradients and buffers, each as one vector."""
    kinds: dict[str, list[str]] = {}
    for name in truth:
        kind = "gradients" if name.startswith("∂") else name.split()[0].rpartition(".")[2]
        kinds.setdefault("outputs" if kind == "output" else kind, []).append(name)
    return {kind: _relative(found, truth, names) for kind, names in kinds.items()}


def _relative(found: Results, truth: Results, names: list[str]) -> float:
    difference = sum(float((found[n].double() - truth[n].double()).square().sum()) for n in names)
    size = sum(float(truth[n].double().square().sum()) for n in names)
    return math.sqrt(difference / size) if size else math.sqrt(difference)


def _times(ways: Mapping[str, Callable[[], object]], *_: Any, **__: Any) -> dict[str, list[float]]:
    """Every way is called once; its time is made up, of the shapes that it is called with."""
    times = {}
    for name, call in ways.items():
        call()
        arguments: Any = getattr(call, "args", (None, ()))[1]
        described = f"{name} {[getattr(each, 'shape', each) for each in arguments]}"
        times[name] = [1.0 + zlib.crc32(described.encode()) / 2**32]
    return times


@contextmanager
def made_up_times(folder: Path) -> Iterator[None]:
    """Let ``auto`` choose as if by chance, so that all ways meet in one network, and always the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnexp.tuning.measure.interleaved_times", _times)
        patch.setenv("CNNEXP_CACHE", str(folder))
        auto.forget()
        yield
    auto.forget()
