"""The page in a real browser: every number that it computes is the one that was traced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cnnexp.explanation import Origin, Subject, Trace, trace, write_page
from cnnexp.explanation import page as page_module
from cnnexp.explanation.encoding import chosen_channels
from cnnexp.nn import replace_layers
from tests.explanation.browser import Browser
from tests.explanation.conftest import Explained
from tests.explanation.test_trace import MODELS

MOST_BYTES = 8_000_000
CLASSES = ["a", "</script><b>b", "c"]

# What is compared in each card: what the page computes, and what was traced.
PAIRS = [
    ("output", "traced-output"),
    ("input-sum", "input-gradient"),
    ("weight-sum", "weight-gradient"),
    ("bias-sum", "bias-gradient"),
    ("formula-gradient", "logit-gradient"),
]
NUMBERS = """(() => {
  const read = (card, name) => [...card.querySelectorAll(`[data-name="${name}"]`)].flatMap(node =>
    node.dataset.value !== undefined ? [Number(node.dataset.value)]
      : [...node.querySelectorAll("td")].map(cell => Number(cell.dataset.value)));
  return [...document.querySelectorAll("details.layer")].map(card => ({
    title: card.querySelector("summary b").textContent,
    windows: card.querySelector("[data-name=weight-agreement]") !== null,
    pairs: PAIRS.map(([mine, theirs]) => [read(card, mine), read(card, theirs)]),
    agreements: [...card.querySelectorAll(".agree")].filter(node => !node.closest("[hidden]")).map(
      node => [node.dataset.name, Number(node.dataset.difference), Number(node.dataset.scale)]),
  }));
})()"""


def _open_all(browser: Browser, file: Path) -> None:
    browser.said.clear()
    browser.requests.clear()
    browser.open(file)
    browser.run("cards.forEach(card => { card.open = true; })")
    browser.wait("cards.every(card => card.querySelector('.body').children.length > 0)")


def _numbers(browser: Browser) -> list[dict[str, Any]]:
    return browser.run(NUMBERS.replace("PAIRS", str([list(pair) for pair in PAIRS])))


def _to_the_end(browser: Browser) -> None:
    """Every slider, as a hand that pulls it."""
    browser.run(
        "document.querySelectorAll('input[type=range]').forEach(slider => {"
        "slider.value = slider.max; slider.dispatchEvent(new Event('input')); })"
    )


def _check(browser: Browser, *, ends: bool = False) -> int:
    """Compare all pairs of numbers; how many there were."""
    compared = 0
    for card in _numbers(browser):
        for (mine, theirs), names in zip(card["pairs"], PAIRS, strict=True):
            assert len(mine) == len(theirs), (card["title"], names)
            if names[0] == "weight-sum" and card["windows"] and not ends:
                continue  # a kernel is whole only once all windows are done
            scale = max((abs(v) for v in theirs), default=0)
            for a, b in zip(mine, theirs, strict=True):
                assert a == pytest.approx(b, rel=1e-3, abs=2e-5 * scale + 1e-9), (card, names)
                compared += 1
        if ends:
            for name, difference, scale in card["agreements"]:
                assert difference <= 2e-5 * scale + 1e-9, (card["title"], name)
                compared += 1
    return compared


def _choose_others(browser: Browser) -> None:
    """In every card another channel, another position and another input channel."""
    browser.run(
        """cards.forEach((card, i) => {
          const buttons = [...card.querySelectorAll(".grid:first-of-type .thumb")];
          const free = buttons.filter(button => button.getAttribute("aria-pressed") !== "true");
          if (free.length) free[Math.floor(free.length / 2)].click();
          const canvas = [...card.querySelectorAll("canvas.choose")].pop();
          if (!canvas) return;
          const box = canvas.getBoundingClientRect();
          const at = {clientX: box.left + box.width * 0.3, clientY: box.top + box.height * 0.7};
          canvas.dispatchEvent(new MouseEvent("click", at));
          const select = card.querySelector("select");
          if (!select || select.options.length < 2) return;
          select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
          select.dispatchEvent(new Event("change"));
        })"""
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_formula_gives_what_was_traced(
    name: str, explained: Explained, browser: Browser
) -> None:
    file, found = explained(*MODELS[name])
    assert file.stat().st_size < MOST_BYTES
    _open_all(browser, file)
    titles = [card["title"] for card in _numbers(browser)]
    assert len(titles) == len(found.steps) + 1
    assert _check(browser) > len(found.steps)
    _to_the_end(browser)
    assert _check(browser, ends=True) > len(found.steps)
    _choose_others(browser)
    assert _check(browser) > len(found.steps)
    _to_the_end(browser)
    _check(browser, ends=True)
    assert browser.said == []
    assert set(browser.requests) == {file.as_uri()}


def _network(*layers: nn.Module) -> nn.Module:
    return replace_layers(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))
    )


GEOMETRIES = {
    "stride and padding": lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 3), padding=(2, 1)),
    "dilation": lambda: nn.Conv2d(2, 4, 3, padding=1, dilation=(2, 1)),
    "groups": lambda: nn.Conv2d(2, 6, 3, padding=1, groups=2, bias=False),
    "same, even": lambda: nn.Conv2d(2, 4, (4, 2), padding="same", dilation=(1, 3)),
    "reflect": lambda: nn.Conv2d(2, 4, 3, padding=2, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(2, 4, 3, padding=(2, 1), padding_mode="circular"),
    "replicate": lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="replicate"),
    "max, overlapping": lambda: nn.MaxPool2d(3, 2, 1),
    "max, ceil and dilation": lambda: nn.MaxPool2d(2, 3, dilation=2, ceil_mode=True),
    "avg, ceil": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "avg, inside": lambda: nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False),
    "avg, divisor": lambda: nn.AvgPool2d(2, divisor_override=3),
    "adaptive": lambda: nn.AdaptiveAvgPool2d((3, 4)),
    "group norm": lambda: nn.GroupNorm(2, 4, affine=False),
    "gelu, tanh": lambda: nn.GELU(approximate="tanh"),
    "unknown": lambda: nn.Hardswish(),
}


def _page_of(network: nn.Module, folder: Path, image: torch.Tensor) -> tuple[Path, Trace]:
    network(image.unsqueeze(0))  # which settles the lazy layer
    found = trace(network, image, 1)
    file = folder / "explain.html"
    pixels = (image - image.min()) / (image.max() - image.min())
    write_page(found, Subject(pixels, "random"), CLASSES, Origin("made here", "none"), file)
    return file, found


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_windows_of_every_geometry(tmp_path: Path, browser: Browser) -> None:
    for name, make in GEOMETRIES.items():
        layer = make()
        before = [] if isinstance(layer, nn.Conv2d) else [nn.Conv2d(2, 4, 1)]
        network = _network(*before, layer)
        file, found = _page_of(network, tmp_path, torch.randn(2, 9, 8))
        _open_all(browser, file)
        assert _check(browser) > 3, name
        _choose_others(browser)
        _to_the_end(browser)
        assert _check(browser, ends=True) > 5, name
        assert browser.said == [], name
        assert browser.run("document.title") == "cnnexp: one image explained"
        assert browser.run("document.querySelectorAll('.bars b').length") == 0  # of a class's name
        assert len(found.steps) == len(list(network.children()))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_weights_beyond_the_room_are_chosen_and_sums_stay_whole(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "_MOST_WEIGHTS", 1)
    network = replace_layers(
        nn.Sequential(
            *(nn.Conv2d(2, 12, 3), nn.Conv2d(12, 24, 3, groups=3), nn.Flatten()),
            nn.Linear(24 * 16, 3),
        )
    )
    file, _ = _page_of(network, tmp_path, torch.randn(2, 8, 8))
    _open_all(browser, file)
    notes = browser.run(
        "[...document.querySelectorAll('.layer .note')].map(node => node.textContent)"
    )
    assert sum("The page holds those of 2 out" in note for note in notes) == 3
    for _ in range(2):
        assert _check(browser) > 5
        _to_the_end(browser)
        assert _check(browser, ends=True) > 5
        _choose_others(browser)
    assert browser.said == []


def test_channels_are_chosen_within_groups(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "_MOST_WEIGHTS", 700)
    network = replace_layers(
        nn.Sequential(
            *(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 20, 3, groups=2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 3)),
        )
    )
    file, _ = _page_of(network, tmp_path, torch.randn(2, 6, 6))
    _open_all(browser, file)
    assert "The page holds those of 4 output and 4 input" in browser.run("cards[1].textContent")
    seen = browser.run(
        """[...cards[1].querySelectorAll(".grid:first-of-type .thumb")].slice(0, 4).map(button => {
          button.click();
          const slider = cards[1].querySelector("input[type=range]");
          slider.value = slider.max;
          slider.dispatchEvent(new Event("input"));
          const held = cards[1].querySelector("[data-name=input-agreement]");
          const {difference, scale} = held.dataset;
          return [Number(button.dataset.channel), held.closest("[hidden]") !== null, difference / scale];
        })"""
    )
    compared = [(channel, part) for channel, hidden, part in seen if not hidden]
    assert any(channel >= 10 for channel, _ in compared)  # of the second group
    assert all(part < 1e-5 for _, part in compared)
    assert _check(browser) > 5
    assert browser.said == []


def test_layers_beyond_the_room_show_some_maps(
    explained: Explained, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "_ROOM_FOR_MAPS", 20_000)
    file, _ = explained("model=seed_cnn")
    _open_all(browser, file)
    text = browser.run("cards[0].textContent")
    assert "too large for the page: it shows 8 of 32 channels" in text
    assert browser.run("cards[0].querySelectorAll('.thumb').length") == 16
    _choose_others(browser)
    assert _check(browser) > 5
    assert browser.said == []


def test_a_network_that_has_become_nan_has_a_page(tmp_path: Path, browser: Browser) -> None:
    first = nn.Conv2d(2, 4, 3)
    network = replace_layers(
        nn.Sequential(
            *(first, nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Flatten()),
            nn.Linear(16, 3),
        )
    )
    for broken in (float("nan"), float("inf"), 0.0):
        with torch.no_grad():
            first.weight.fill_(broken)
        file, _ = _page_of(network.eval(), tmp_path, torch.randn(2, 6, 6))
        _open_all(browser, file)
        _choose_others(browser)
        _to_the_end(browser)
        assert browser.said == []


def test_the_strongest_channels_are_chosen_beside_the_first() -> None:
    grad = torch.zeros(10, 3)
    grad[7], grad[9], grad[0] = 1, 2, 3
    assert chosen_channels(grad, 10, 4) == [0, 1, 7, 9]
    assert chosen_channels(None, 10, 3) == [0, 1, 2]
    assert chosen_channels(grad, 10, 10) == list(range(10))
