"""The bars of the flow of layers: a factor is as long as it is, on every page."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from tests.explanation.browser import Browser
from tests.explanation.conftest import Explained

BARS = """[...document.querySelectorAll("#flow .bar > i")].map(bar => ({
  value: Number(bar.dataset.value),
  share: 100 * bar.getBoundingClientRect().width / bar.parentNode.clientWidth}))"""
TICKS = """[...document.querySelector("#flow .ticks").children].map(tick => [Number(tick.dataset.exponent),
  tick.textContent, tick.getBoundingClientRect().left, tick.getBoundingClientRect().right])"""
HEALTHY = "model=lenet5"
VANISHING = ("experiment=vanishing", "data=synthetic")


def _decades(browser: Browser) -> int:
    return int(browser.run("document.getElementById('flow').style.getPropertyValue('--decades')"))


def test_a_factor_has_one_length_on_every_page(explained: Explained, browser: Browser) -> None:
    browser.size(1280)
    for model, image in ((HEALTHY, 0), ("model=seed_cnn", 1)):
        file, found = explained(model, image=image)
        browser.open(file)
        assert _decades(browser) == 9
        norms = [
            float(t.norm()) for s in found.steps for t in (s.output, s.grad_output) if t is not None
        ]
        bars = browser.run(BARS)
        assert [bar["value"] for bar in bars] == pytest.approx(norms, rel=1e-5)
        for bar in bars:  # of 9 decades from 10⁻⁶, whatever the others are
            assert bar["share"] == pytest.approx(100 * (math.log10(bar["value"]) + 6) / 9, abs=0.5)
    assert 100 * math.log10(2) / 9 < 4  # per cent of a bar, a factor of 2
    ticks = browser.run(TICKS)
    assert [tick[:2] for tick in ticks] == [[-6, "10⁻⁶"], [0, "1"], [3, "10³"]]
    assert all(one[3] <= two[2] for one, two in pairwise(ticks))
    said = browser.run("document.getElementById('scale').textContent")
    assert said == "a mark each factor of 10, from 10⁻⁶ to 10³"


def test_what_lies_beyond_makes_the_scale_longer_by_whole_decades(
    explained: Explained, browser: Browser
) -> None:
    browser.size(1280)
    file, found = explained(*VANISHING)
    browser.open(file)
    least = min(float(s.grad_output.norm()) for s in found.steps if s.grad_output is not None)
    assert least < 1e-9
    lowest = math.floor(math.log10(least))
    assert _decades(browser) == 3 - lowest
    bars = browser.run(BARS)
    for bar in bars:
        share = 100 * (math.log10(bar["value"]) - lowest) / (3 - lowest)
        assert bar["share"] == pytest.approx(share, abs=0.5)
    assert [tick[0] for tick in browser.run(TICKS)][0::2] == [lowest]  # no room for 1 beside 10³
    assert browser.said == []


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ("[]", [-6, 3]),
        ("[0, NaN, Infinity, null]", [-6, 3]),
        ("[1e-6, 1000]", [-6, 3]),
        ("[0.99e-6, 1001]", [-7, 4]),
        ("[1e-45, 3e38]", [-45, 39]),
    ],
)
def test_ends(values: str, ends: list[int], explained: Explained, browser: Browser) -> None:
    if browser.run("typeof decades") != "function":
        browser.open(explained(HEALTHY)[0])
    found: dict[str, Any] = browser.run(
        f"(s => ({{ends: [s.least, s.most], widths: [0, NaN, null, 1e39, 1e-46].map(s.width)}}))"
        f"(decades({values}))"
    )
    assert found["ends"] == ends
    zero, not_a_number, none, huge, _ = found["widths"]
    assert (zero, not_a_number, none, huge) == (0, 0, 0, 100)
