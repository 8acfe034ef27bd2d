"""The benchmark of how cost grows: which rows stay, and what tables and plots show; no clock is asserted."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scale")


def test_rows_of_other_axes_stay_and_the_order_is_that_of_the_axes(scale: Any) -> None:
    def row(axis: str, value: int) -> dict[str, str]:
        return {"axis": axis, "value": str(value)}

    known = [row("batch", 1), row("size", 28), row("size", 56)]
    new = [row("size", 112), row("data", 6000)]
    assert scale.merged(known, new) == [row("data", 6000), row("batch", 1), row("size", 112)]


def test_what_was_written_is_read(scale: Any, tmp_path: Path) -> None:
    rows = [{"axis": "batch", "value": "1", "note": ""}, {"axis": "data", "own_mb": "3"}]
    scale.write(rows, tmp_path / "scale.csv")
    assert scale.read(tmp_path / "scale.csv") == [
        {"axis": "batch", "value": "1", "note": "", "own_mb": ""},
        {"axis": "data", "value": "", "note": "", "own_mb": "3"},
    ]
    assert scale.read(tmp_path / "none.csv") == []


def test_the_command_is_measured_with_a_cache_of_its_own(
    scale: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", "mine")
    arguments = ["--axis", "batch", "--values", "1", "--rounds", "1", "--algorithm", "native"]
    rows = scale.measure(arguments, 1)
    assert [row["way"] for row in rows] == ["torch channels_last", "cnnexp native"]
    assert {row["threads"] for row in rows} == {"1"}
    assert not Path("mine").exists()


def test_what_was_left_out_is_said_in_its_row(scale: Any) -> None:
    rows = [dict(row) for row in scale.read() if row["axis"] == "batch"]
    largest = rows[-1]["value"]
    kept = [row for row in rows if row["value"] != largest]
    left_out = {**rows[0], "value": largest, "note": "left out: too large", "full_ms": ""}
    made = scale.tables.TABLES["batch"]([*kept, left_out])
    assert f"| {largest} | left out: too large |" in made
    assert scale.tables.TABLES["batch"]([]).endswith("benchmarks/scale.py --axis batch`.")


def test_plots_are_drawn_from_the_rows_and_say_so(scale: Any, tmp_path: Path) -> None:
    files = scale.plots.draw(scale.read(), scale.RESULTS, tmp_path)
    assert [file.name for file in files] == list(scale.plots.NAMES)
    for file in files:
        with Image.open(file) as picture:
            assert picture.info["Source"] == scale.plots.digest(scale.RESULTS)
            assert min(picture.size) > 200


@pytest.mark.parametrize(
    ("given", "shown"),
    [("0.1234", "0.123"), ("1.236", "1.24"), ("12.36", "12.4"), ("1234.4", "1,234"), ("", "–")],
)
def test_numbers_have_three_digits(scale: Any, given: str, shown: str) -> None:
    assert scale.tables._number(given) == shown
