"""The page's controls in a real browser: clicks, keys, sliders, play, widths, light and dark."""

from __future__ import annotations

import time

import pytest

from cnnexp.explanation import Trace
from tests.explanation.browser import Browser
from tests.explanation.conftest import Explained
from tests.explanation.test_page import _check, _open_all, _to_the_end

SMALL_CONTROLS = """
[...document.querySelectorAll("button, select, input[type=range], summary, .flow a, .check")]
  .filter(node => node.offsetParent && node.getBoundingClientRect().height < 40)
  .map(node => node.outerHTML.slice(0, 80))"""
NAMELESS = """
[...document.querySelectorAll("canvas.large, button, select, input[type=range]")]
  .filter(node => !(node.getAttribute("aria-label") || node.textContent.trim())).length"""


@pytest.fixture
def lenet(explained: Explained, browser: Browser) -> Trace:
    """Its page, opened at 1280 pixels."""
    browser.size(1280)
    browser.dark(False)
    file, found = explained("model=lenet5", "model.activation=relu")
    browser.said.clear()
    browser.open(file)
    return found


def _value(browser: Browser, card: int, name: str) -> float:
    return float(browser.run(f"cards[{card}].querySelector('[data-name={name}]').dataset.value"))


def _status(browser: Browser, card: int) -> str:
    return browser.run(f"cards[{card}].querySelector('[role=status]').textContent")


def test_a_click_and_the_arrow_keys_choose_a_position(lenet: Trace, browser: Browser) -> None:
    browser.run("cards[0].querySelector('[data-channel=\"2\"]').click()")
    box = browser.run(
        "(() => { const c = cards[0].querySelectorAll('canvas.choose')[0];"
        "c.scrollIntoView({block: 'center'}); const b = c.getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]; })()"
    )
    browser.click(box[0] + box[2] * (5.5 / 28), box[1] + box[3] * (3.5 / 28))
    assert _status(browser, 0) == "chosen: channel o = 2, position (p, q) = (3, 5)"
    assert _value(browser, 0, "output") == pytest.approx(
        float(lenet.steps[0].output[2, 3, 5]), rel=1e-4
    )
    before = _value(browser, 0, "output")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowDown"):
        browser.press(key)
    assert _status(browser, 0) == "chosen: channel o = 2, position (p, q) = (4, 7)"
    after = _value(browser, 0, "output")
    assert after != before
    assert after == pytest.approx(float(lenet.steps[0].output[2, 4, 7]), rel=1e-4)
    for _ in range(40):
        browser.press("ArrowLeft")  # not beyond the rim
    assert _status(browser, 0).endswith("(4, 0)")


def test_one_output_channel_alone_or_all(lenet: Trace, browser: Browser) -> None:
    second = 3  # conv2, of several input and output channels
    browser.run(f"cards[{second}].open = true")
    browser.wait(f"cards[{second}].querySelector('input[type=range]') !== null")
    _to_the_end(browser)

    def difference() -> float:
        node = f"cards[{second}].querySelector('[data-name=input-agreement]')"
        return float(browser.run(f"{node}.dataset.difference / {node}.dataset.scale"))

    assert difference() < 1e-5
    browser.run(f"cards[{second}].querySelector('input[type=checkbox]').click()")
    assert difference() > 1e-2
    browser.run(f"cards[{second}].querySelector('input[type=checkbox]').click()")
    assert difference() < 1e-5
    browser.run(
        "document.querySelectorAll('input[type=range]').forEach(slider => {"
        "slider.value = 0; slider.dispatchEvent(new Event('input')); })"
    )
    assert difference() == pytest.approx(1)  # nothing yet


def test_play_runs_and_pause_stops(lenet: Trace, browser: Browser) -> None:
    browser.run("cards[0].querySelector('input[type=range]').value = 0")
    _to_the_end(browser)
    button = "cards[0].querySelector('[data-name=play]')"
    slider = "Number(cards[0].querySelector('input[type=range]').value)"
    browser.run(f"{button}.click()")  # at the end: from the beginning again
    assert browser.run(f"{button}.textContent") == "⏸ Pause"
    browser.wait(f"{slider} >= 8 && {slider} < 500")
    browser.run(f"{button}.click()")
    held = browser.run(slider)
    assert browser.run(f"{button}.textContent") == "▶ Play"
    time.sleep(0.35)
    assert browser.run(slider) == held
    browser.run("cards[0].querySelector('[aria-label=\"one window on\"]').click()")
    assert browser.run(slider) == held + 1
    assert _check(browser) >= 2


def test_all_channels_are_shown_when_asked_for(explained: Explained, browser: Browser) -> None:
    file, _ = explained("model=seed_cnn", "model.channels=[24,4]")
    browser.open(file)
    assert browser.run("cards[0].querySelectorAll('.thumb').length") in (32, 34)
    browser.run("cards[0].querySelector('.grids button.plain').click()")
    assert browser.run("cards[0].querySelectorAll('.thumb').length") == 48
    browser.run("document.querySelector('.flow a[href=\"#layer-2\"]').click()")
    browser.wait("cards[2].open && cards[2].querySelector('.body').children.length > 0")


def test_nothing_is_wider_than_the_window(explained: Explained, browser: Browser) -> None:
    file, _ = explained("model=resnet", "model.norm=group")
    for width in (360, 768, 1920):
        browser.size(width, phone=width < 500)
        if width == 360:
            _open_all(browser, file)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("window.innerWidth") == width
        assert browser.run(SMALL_CONTROLS) == []
    assert browser.run(NAMELESS) == 0
    browser.size(1280)


def test_light_and_dark(lenet: Trace, browser: Browser) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    thumb = "cards[0].querySelector('.thumb canvas').toDataURL()"
    light = browser.run(paper), sum(browser.run("colour(0, 1)")), browser.run(thumb)
    browser.dark()
    browser.wait(f"isDark && {thumb} !== '{light[2]}'")  # the maps are painted anew
    dark = browser.run(paper), sum(browser.run("colour(0, 1)"))
    browser.dark(False)
    assert light[0] != dark[0]
    assert light[1] > 600  # the middle of the scale is nearly white, or nearly black
    assert dark[1] < 150
    assert browser.said == []
