"""The metrics of a run as a table, on a screen, in a notebook, as curves."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from cnnexp.runs.metrics_table import Metrics


def _rows(epochs: int = 3) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, epochs + 1):
        for step in (2 * epoch - 2, 2 * epoch - 1):
            rows.append(
                {"epoch": epoch, "step": step, "name": "train/loss_step", "value": 1 / (step + 1)}
            )
        for name, value in (
            ("val/acc", epoch / 10),
            ("train/loss", 2.5 / epoch),
            ("perf/x", 12345.6),
        ):
            rows.append({"epoch": epoch, "step": 2 * epoch, "name": name, "value": value})
    rows.append({"epoch": epochs, "step": 2 * epochs, "name": "test/acc", "value": 0.9})
    return [*rows, {"epoch": None, "step": 0, "name": "hp", "value": 1.0}]


def test_a_row_is_an_epoch_and_a_column_a_metric() -> None:
    metrics = Metrics(_rows())
    assert metrics.columns == ("epoch", "step", "train/loss", "val/acc", "perf/x")
    assert len(metrics) == 3
    assert metrics[-1] == {
        "epoch": 3, "step": 6, "train/loss": 2.5 / 3, "val/acc": 0.3, "perf/x": 12345.6
    }  # fmt: skip
    assert metrics["val/acc"] == [0.1, 0.2, 0.3]
    assert [row["epoch"] for row in metrics] == metrics["epoch"] == [1, 2, 3]
    assert metrics.curve("train/loss_step") == (list(range(6)), [1 / n for n in range(1, 7)])
    assert metrics.curve("test/acc") == ([6], [0.9])
    assert set(metrics.names) == {*metrics.columns[2:], "train/loss_step", "test/acc", "hp"}


def test_it_is_shown_as_text_and_as_html() -> None:
    assert repr(Metrics(_rows(2))).splitlines() == [
        "epoch  step  train/loss  val/acc     perf/x",
        "    1     2      2.5000   0.1000  1.235e+04",
        "    2     4      1.2500   0.2000  1.235e+04",
    ]
    long = repr(Metrics(_rows(50))).splitlines()
    assert len(long) == 22
    assert long[11] == "… 30 epochs …"
    assert "<th>val/acc</th>" in Metrics(_rows())._repr_html_()
    assert Metrics(_rows())._repr_html_().count("<tr>") == 4
    assert repr(Metrics([])) == "Metrics of no epoch"


def test_an_epoch_without_a_validation_has_none() -> None:
    rows = [row for row in _rows() if (row["name"], row["epoch"]) != ("val/acc", 2)]
    metrics = Metrics(rows)
    assert metrics["val/acc"] == [0.1, None, 0.3]
    assert "2     4      1.2500           1.235e+04" in repr(metrics)


def test_curves_are_a_figure_that_shows_itself() -> None:
    figure = Metrics(_rows()).plot()
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["train/loss"]
    assert [*np.asarray(axes.lines[0].get_ydata())] == [2.5, 1.25, 2.5 / 3]
    assert figure._repr_png_().startswith(b"\x89PNG")  # pyright: ignore[reportAttributeAccessIssue]


def test_an_unknown_metric_is_said_with_a_hint() -> None:
    with pytest.raises(KeyError, match=r"there is no metric 'val/ac'. Did you mean 'val/acc'"):
        Metrics(_rows())["val/ac"]
    with pytest.raises(KeyError, match="there is no metric 'val/los'"):
        Metrics(_rows()).plot("val/los")


def test_pandas_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas needs pandas: pip install pandas"):
        Metrics(_rows()).to_pandas()


def test_pandas_gets_the_table() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is no dependency")
    frame = Metrics(_rows()).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[3, "val/acc"] == 0.3
