"""Pairs of times: what they tell, and when they are looked at."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest

from cnnexp.tuning.paired import LOOKS, NOTHING, Paired, compare, interval


@pytest.mark.parametrize("count", sorted({*range(5, 12), *LOOKS}))
def test_the_interval_holds_the_median_as_often_as_it_says(count: int) -> None:
    draw = random.Random(count)
    tries = 2000
    held = 0
    for _ in range(tries):  # skewed, as times are: the true median is exp(0) = 1
        low, high = interval([math.exp(draw.gauss(0, 0.3)) ** 2 for _ in range(count)])
        held += low <= 1.0 <= high
    assert held / tries >= 0.88  # 90 % and the spread of 2,000 draws
    assert held / tries <= 0.99  # and no wider than that needs


@pytest.mark.parametrize("count", range(5))
def test_less_than_five_values_tell_nothing(count: int) -> None:
    assert interval([0.5] * count) == (0.0, math.inf)


def _times(draw: random.Random, mean: float, noise: float) -> Iterator[float]:
    while True:
        yield mean * math.exp(draw.gauss(0, noise))


@pytest.mark.parametrize(("gain", "faster"), [(0.6, True), (0.9, True), (1.0, False), (1.1, False)])
def test_a_gain_is_seen_through_noise_and_none_is_not(gain: float, faster: bool) -> None:
    wrong = 0
    for seed in range(200):
        draw = random.Random(seed)
        one, other = _times(draw, gain, 0.05), _times(draw, 1.0, 0.05)
        wrong += compare(lambda: next(one), lambda: next(other)).faster != faster  # noqa: B023
    assert wrong <= (24 if gain == 1.0 else 4)  # several looks at equal ways


def test_pairs_begin_with_each_in_turn_and_end_once_they_tell() -> None:
    calls: list[str] = []

    def way(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    found = compare(lambda: way("a", 0.5), lambda: way("b", 1.0))
    assert "".join(calls) == "abbaabbaab"
    assert found == Paired(0.5, 0.5, 0.5, LOOKS[0])
    assert found.faster


def test_what_stays_unclear_is_looked_at_to_the_end_or_till_time_is_up() -> None:
    ratios = [0.9, 0.9, 1.2, 0.9, 1.2, 0.9, 0.9, 1.2, 0.9] * 9

    def compared(seconds: float) -> Paired:
        values = iter(ratios)
        return compare(lambda: next(values), lambda: 1.0, seconds)

    assert compared(math.inf).pairs > LOOKS[1]
    assert compared(0.0).pairs == LOOKS[0]
    assert not compared(0.0).faster


def test_a_gain_of_nearly_nothing_is_none() -> None:
    assert not Paired(1.0 - NOTHING / 2, 0.99, 0.999, 41).faster
    assert Paired(1.0 - 2 * NOTHING, 0.99, 0.999, 41).faster
