"""Which groups of layers are taken, with made-up steps: no clock."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping

import pytest

from cnnexp.tuning.greedy import Group, choose, promises

FOREVER = 1e9
BASE = {"a": "native", "b": "native", "c": "native"}


def test_promises_are_grouped_by_op_algorithm_and_clearness_the_best_first() -> None:
    ops = {"a": "conv2d", "b": "conv2d", "c": "relu", "d": "conv2d", "e": "linear", "f": "linear"}
    ops["g"] = "relu"
    times = {
        "a": {"native": 4.0, "im2col": 2.0, "direct": 3.0},
        "b": {"native": 2.0, "im2col": 1.9},  # a promise, but no clear one
        "c": {"native": 1.0, "direct": 0.99},  # none
        "g": {"native": 1.0, "direct": 1.3},  # nothing to be hoped for
        "d": {"native": 9.0, "im2col": 6.0},
        "e": {"native": 1.0, "direct": 0.5},
        "f": {"direct": 1.0},  # torch's own does not take it
    }
    assert promises(ops, times) == [
        Group("conv2d", "im2col", ("a", "d"), 5.0),
        Group("linear", "direct", ("e",), 0.5),
        Group("conv2d", "im2col", ("b",), pytest.approx(0.1)),  # pyright: ignore[reportArgumentType]
        Group("relu", "direct", ("c",), pytest.approx(0.01), doubtful=True),  # pyright: ignore[reportArgumentType]
    ]


def _group(layers: str, gain: float = 1.0, algorithm: str = "fast") -> Group:
    return Group("conv2d", algorithm, tuple(layers), gain)


def test_a_group_is_taken_only_if_the_step_gains() -> None:
    saved = {"a": 2.0, "b": -1.0, "c": 0.5}

    def seconds(way: Mapping[str, str]) -> float:
        return 10.0 - sum(saved[name] for name, each in way.items() if each == "fast")

    groups = [_group("b", 3.0), _group("a", 2.0), _group("c", 1.0)]  # b promises and does not keep
    chosen, ratio = choose(BASE, groups, seconds, FOREVER)
    assert chosen == {"a": "fast", "b": "native", "c": "fast"}
    assert ratio == pytest.approx(0.75)


def test_a_group_counts_beside_what_is_taken_already() -> None:
    def seconds(way: Mapping[str, str]) -> float:
        fast = {name for name, each in way.items() if each == "fast"}
        return {0: 10.0, 1: 8.0, 2: 9.0, 3: 11.0}[len(fast)]  # each gains alone, not together

    chosen, ratio = choose(BASE, [_group("a"), _group("b"), _group("c")], seconds, FOREVER)
    assert list(chosen.values()).count("fast") == 1
    assert ratio == pytest.approx(0.8)


@pytest.mark.parametrize("kept", [False, True])
def test_the_doubtful_are_tried_where_others_have_kept_their_promise(kept: bool) -> None:
    tried: list[Mapping[str, str]] = []

    def seconds(way: Mapping[str, str]) -> float:
        tried.append(way)
        fast = {name for name, each in way.items() if each == "fast"}
        return 10.0 - (4.0 if kept else -1.0) * ("a" in fast) - 1.0 * ("b" in fast)

    groups = [_group("a"), Group("conv2d", "fast", ("b",), -0.1, doubtful=True)]
    other = Group("conv2d", "other", ("c",), 0.0, doubtful=True)
    chosen, ratio = choose(BASE, [*groups, other], seconds, FOREVER)
    expected = {"a": "fast", "b": "fast", "c": "native"} if kept else BASE
    assert (chosen, ratio) == (expected, pytest.approx(0.5 if kept else 1.0))
    assert all(way["b"] == "native" or kept for way in tried)
    assert all(way["c"] == "native" for way in tried)


def test_without_a_promise_no_step_is_run() -> None:
    assert choose(BASE, [], lambda _: pytest.fail("run"), FOREVER) == (BASE, 1.0)


def test_a_promise_that_is_nothing_of_the_step_is_not_tried() -> None:
    ways: list[Mapping[str, str]] = []

    def seconds(way: Mapping[str, str]) -> float:
        ways.append(way)
        return 1000.0

    assert choose(BASE, [_group("a", 1.0)], seconds, FOREVER) == (BASE, 1.0)
    assert all(way == BASE for way in ways)


def test_no_group_is_tried_once_the_time_is_up() -> None:
    def seconds(way: Mapping[str, str]) -> float:
        return 1.0 if way == BASE else pytest.fail("tried")

    assert choose(BASE, [_group("a")], seconds, -1.0) == (BASE, 1.0)


def test_of_a_long_step_all_that_is_promised_is_looked_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent = [0.0]
    monkeypatch.setattr("cnnexp.tuning.greedy.clock", lambda: spent[0])
    monkeypatch.setattr("cnnexp.tuning.paired.clock", lambda: spent[0])

    def seconds(way: Mapping[str, str]) -> float:
        spent[0] += 1.0
        return 4.0 - list(way.values()).count("fast")

    enough = 2 + 2 * 5 - 1.0  # a step twice, and five pairs
    chosen, ratio = choose(BASE, [_group("a"), _group("b"), _group("c")], seconds, enough)
    assert set(chosen.values()) == {"fast"}
    assert ratio == 0.25
    assert spent[0] == 2 + 2 * 5


def test_what_gains_by_chance_falls_at_the_last_look() -> None:
    groups, lucky = [_group("a"), _group("b")], 2 * 5  # till each of the two has been looked at
    tries = itertools.count()

    def seconds(way: Mapping[str, str]) -> float:
        fast = list(way.values()).count("fast")
        return 1.0 - 0.02 * fast if fast and next(tries) < lucky + 5 else 1.0

    assert choose(BASE, groups, seconds, FOREVER) == (BASE, 1.0)
    assert next(tries) > lucky + 5  # both were taken before


def test_a_way_that_fails_in_the_step_is_not_taken() -> None:
    def seconds(way: Mapping[str, str]) -> float:
        if way["a"] == "fast":
            raise RuntimeError("not here")
        return 1.0 if way["b"] == "fast" else 2.0

    chosen, ratio = choose(BASE, [_group("a"), _group("b")], seconds, FOREVER)
    assert chosen == {**BASE, "b": "fast"}
    assert ratio == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_within_3_percent_of_the_best_of_all(seed: int) -> None:
    """Of all choices for four groups whose gains add up, promise and step being of one sign or not."""
    draw = random.Random(seed)
    names = "abcd"
    saved = {name: draw.uniform(-0.2, 0.3) for name in names}
    promised = {name: saved[name] + draw.uniform(0.2, 0.3) for name in names}

    def exact(way: Mapping[str, str]) -> float:
        return 1.6 - sum(saved[name] for name, each in way.items() if each == "fast")

    def seconds(way: Mapping[str, str]) -> float:
        return exact(way) * math.exp(draw.gauss(0, 0.01))

    base = dict.fromkeys(names, "native")
    groups = [_group(name, promised[name]) for name in sorted(names, key=lambda n: -promised[n])]
    chosen, ratio = choose(base, groups, seconds, FOREVER)
    every = itertools.product(("native", "fast"), repeat=len(names))
    best = min(exact(dict(zip(names, ways, strict=True))) for ways in every)
    assert exact(chosen) <= 1.03 * best
    assert exact(chosen) <= exact(base)  # never slower than torch's own
    assert ratio == pytest.approx(exact(chosen) / exact(base), rel=0.02)
