"""The model of several processes: its constants are found again, and it is what the benchmark says."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.conftest import ROOT


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scaling")


def test_the_bytes_are_those_of_the_articles_parameters(scaling: Any) -> None:
    assert scaling.gradient_bytes() == 4 * 390_410


def test_the_constants_of_made_up_times_are_found_again(scaling: Any) -> None:
    seconds = {
        size: scaling.predicted_reduce(2, size, 5e-5, 2e9, cores=2) for size in scaling.SIZES
    }
    latency, bandwidth = scaling.fitted(seconds)
    assert latency == pytest.approx(5e-5)
    assert bandwidth == pytest.approx(2e9)


def test_the_ring_by_hand(scaling: Any) -> None:
    """Four processes on two cores: 6 messages, 1.5 times the bytes, at half the rate."""
    found = scaling.predicted_reduce(4, 1_000_000, 1e-5, 1e9, cores=2)
    assert found == pytest.approx(6e-5 + 2 * 1.5e-3)
    assert scaling.predicted_reduce(1, 1_000_000, 1e-5, 1e9, cores=2) == 0


def test_rows_have_a_prediction_where_it_is_one(scaling: Any) -> None:
    reduces = {f"all-reduce {size}": [1e-4 + size / 1e9] * 5 for size in scaling.SIZES}
    steps = {1: {"step 128": [0.08] * 5, "step 64": [0.04] * 5, "step 32": [0.02] * 5}}
    times = steps | {2: {**reduces, "step 64": [0.05] * 5}, 4: {**reduces, "step 32": [0.06] * 5}}
    rows = scaling.rows_of(times, cores=2)
    own = {(row["kind"], row["processes"], row["size"]): row for row in rows}
    assert own["step", "1", "128"]["predicted_ms"] == ""
    both = float(own["step", "4", "32"]["predicted_ms"])
    reduced = scaling.predicted_reduce(4, scaling.gradient_bytes(), 5e-5, 1e9, cores=2)
    assert both == pytest.approx(1e3 * (0.02 * 2 + reduced), rel=1e-3)
    made = scaling.table(rows)
    assert "| step, 128 images each | 1 | 80.00 (80.00–80.00) | constant |" in made
    assert scaling.table([]).startswith("Not measured yet")


def test_two_processes_time_everything(scaling: Any) -> None:
    times = scaling.measured(2, 2)
    assert set(times) == {
        "step 64",
        *(f"all-reduce {size}" for size in {*scaling.SIZES, scaling.gradient_bytes()}),
    }
    assert all(len(found) == 2 and min(found) > 0 for found in times.values())
