"""Search spaces: what is drawn from them, and what cannot be one."""

from __future__ import annotations

import math

import pytest

from cnnexp.config import ConfigError
from cnnexp.sweeps.space import draw, linear_over_decades, parse

SPACE = {
    "a": "interval(0.0,1.0)",
    "b": "tag(log,interval(1e-4,1e-1))",
    "c": "int(interval(2,5))",
    "d": "x,y,z",
}


def test_points_are_within_and_spread_evenly() -> None:
    points = draw(parse(SPACE, "s"), 64, (0, 1))
    for low in (0.0, 0.25, 0.5, 0.75):  # a Sobol' sequence: as many in each part
        assert sum(low <= point["a"] < low + 0.25 for point in points) == 16
        share = [math.log(point["b"] / 1e-4) / math.log(1e3) for point in points]
        assert abs(sum(low <= each < low + 0.25 for each in share) - 16) <= 1  # by rounding
    assert {point["c"] for point in points} == {2, 3, 4, 5}
    assert {point["d"] for point in points} == {"x", "y", "z"}


def test_more_points_begin_with_the_same_ones_and_another_seed_gives_others() -> None:
    space = parse(SPACE, "s")
    assert draw(space, 20, (0, 1))[:5] == draw(space, 5, (0, 1))
    assert draw(space, 5, (0, 1)) != draw(space, 5, (0, 2))
    assert draw([], 3, (0,)) == [{}, {}, {}]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "interval(3,1)",
            r"p\.k=interval\(3,1\): the interval must go from a number to a greater one",
        ),
        ("tag(log,interval(0,1))", r"to a greater one, both above 0"),
        ("0.1", r"p\.k=0\.1: leaves nothing to search; write listed values"),
        ("interval(1", r"p\.k=interval\(1: cannot be read"),
    ],
)
def test_what_is_no_space(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"k": value}, "p")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("interval(1e-4,1e-1)", True),
        ("interval(0.001,0.1)", True),
        ("interval(0.01,0.5)", False),
        ("tag(log,interval(1e-4,1e-1))", False),
        ("interval(0.0,1.0)", False),
        ("interval(-1.0,1.0)", False),
        ("int(interval(2,500))", False),
        ("1e-4,1e-1", False),
    ],
)
def test_a_linear_search_over_decades_is_said(value: str, said: bool) -> None:
    lines = linear_over_decades(parse({"k": value}, "p"))
    assert [
        f"k=tag(log,{value.replace('1e-1', '0.1').replace('1e-4', '0.0001')})" in line
        for line in lines
    ] == [True] * said
