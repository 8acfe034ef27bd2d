"""The ramp, the moving average and the suggestion, worked out by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from cnnexp.lr_range import LossCurve, Ramp, Suggestion, suggest


def _curve(*losses: float) -> LossCurve:
    curve = LossCurve()
    for k, loss in enumerate(losses):
        curve.add(10 ** (k / 10 - 6), loss)
    return curve


def test_rates_rise_by_the_same_factor() -> None:
    ramp = Ramp(1e-4, 1.0, 41)
    rates = [ramp.rate(step) for step in range(41)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(1.0)
    assert {round(b / a, 9) for a, b in pairwise(rates)} == {round(10**0.1, 9)}


@pytest.mark.parametrize(
    ("low", "high", "steps", "said"),
    [
        (1.0, 0.1, 100, "from 1 to 0.1: the rates must rise from above 0"),
        (0.0, 1.0, 100, "from 0 to 1: the rates must rise"),
        (-1.0, 1.0, 100, "from -1 to 1: the rates must rise"),
        (1e-3, math.inf, 100, "from 0.001 to inf: the rates must rise"),
        (1e-3, 1.0, 3, "steps=3: must be at least 20"),
    ],
)
def test_a_ramp_that_is_none(low: float, high: float, steps: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Ramp(low, high, steps)


def test_the_average_is_corrected_for_its_beginning() -> None:
    curve = _curve(2.0, 1.0)
    # m1 = 0.1·2 = 0.2, by 1 − 0.9 = 0.1; m2 = 0.9·0.2 + 0.1·1 = 0.28, by 1 − 0.81 = 0.19
    assert curve.smoothed == pytest.approx([2.0, 0.28 / 0.19])


@pytest.mark.parametrize("end", [math.nan, math.inf, 1000.0])
def test_divergence_is_seen_at_once(end: float) -> None:
    curve = _curve(*[2.0] * 20)
    assert not curve.diverged
    curve.add(1.0, end)
    assert curve.diverged


def test_what_falls_and_diverges_is_suggested_from() -> None:
    falls = [2.3] * 20 + [2.3 - 0.1 * k for k in range(20)] + [0.4] * 5 + [60.0]
    found = suggest(_curve(*falls))
    assert found is not None
    assert 10 ** (38 / 10 - 6) < found.minimum <= 10 ** (44 / 10 - 6)  # before it diverges
    assert found.rate == max(found.steepest, found.minimum / 10)
    assert 10 ** (20 / 10 - 6) < found.steepest < found.minimum
    assert not found.at_end


def test_a_loss_that_still_falls_at_the_end_says_so() -> None:
    found = suggest(_curve(*[2.3 - 0.02 * k for k in range(40)]))
    assert found is not None
    assert found.at_end


@pytest.mark.parametrize(
    "losses",
    [[2.3] * 40, [2.3 + 0.1 * k for k in range(40)], [2.3, 2.2, math.nan], [math.nan] * 20, []],
    ids=["flat", "rises", "short", "nan", "none"],
)
def test_nothing_is_suggested_where_the_loss_does_not_fall(losses: list[float]) -> None:
    assert suggest(_curve(*losses)) is None


@pytest.mark.parametrize(
    ("steepest", "minimum", "rate", "rule"),
    [(0.5, 1.0, 0.5, "steepest descent"), (1e-4, 1e-2, 1e-3, "minimum / 10")],
)
def test_the_larger_of_the_two_is_suggested(
    steepest: float, minimum: float, rate: float, rule: str
) -> None:
    found = Suggestion(steepest, minimum, at_end=False)
    assert (found.rate, found.rule) == (pytest.approx(rate), rule)
