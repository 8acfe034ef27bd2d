"""``python -m cnnexp.report``: what is gathered, tables, intervals, and the page in a real browser."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cnnexp import report
from cnnexp.reporting import gather, group_runs, settings_that_differ, summary_table, warnings_about
from cnnexp.reporting.groups import interval
from cnnexp.runs import RunFolder
from cnnexp.runs.files import write_json
from tests.reporting.conftest import Drawn


def _write(
    path: Path, seed: int = 0, lr: float = 0.1, acc: float = 0.9, **changes: Any
) -> RunFolder:
    """A run's folder, as a training writes it."""
    path.mkdir(parents=True)
    folder = RunFolder(path)
    optimizer = changes.get("optimizer", {"_target_": "torch.optim.SGD", "lr": lr})
    config = {
        "seed": seed,
        "name": "x",
        "optimizer": optimizer,
        "data": {"split_seed": changes.get("split_seed", seed), "root": "d"},
        "checkpoint": {"monitor": changes.get("monitor", "val/acc")},
    }
    folder.write_config(config)
    folder.write_provenance(
        {
            "dataset": {
                "name": changes.get("dataset", "mnist"),
                "checksum": changes.get("checksum", changes.get("dataset", "m")),
            },
            "git": {
                "commit": changes.get("commit", "c" * 40),
                "dirty": changes.get("dirty", False),
            },
        }
    )
    state = changes.get("state", "done")
    folder.write_status(state, epoch=3, epochs=3, error=changes.get("error", ""))
    for epoch in (1, 2, 3):
        part = acc * epoch / 3
        folder.append_metrics({"val/acc": part, "train/loss": 1 - part}, epoch=epoch, step=epoch)
    if state == "done":
        figures = {"val/acc": acc, "test/acc": acc - 0.01, "seconds_fit": 10.0 + seed, "epochs": 3}
        folder.write_result({"status": "done", "dataset": "mnist", "val/loss": 0.1, **figures})
    return folder


def test_runs_that_differ_by_their_seeds_are_one_setting(tmp_path: Path) -> None:
    for seed in range(3):
        _write(tmp_path / f"a{seed}", seed, lr=0.1, acc=0.90 + 0.01 * seed)
        _write(tmp_path / f"b{seed}", seed, lr=0.5, acc=0.80)
    runs = gather([tmp_path])
    settings = settings_that_differ(runs)
    assert list(settings) == ["optimizer.lr"]
    groups = group_runs(runs, settings)
    assert [g.name for g in groups] == ["optimizer.lr=0.1", "optimizer.lr=0.5"] or [
        g.name for g in groups
    ] == ["lr=0.1", "lr=0.5"]
    mean, half, n = groups[0].mean("val/acc")
    assert (mean, n) == (pytest.approx(0.91), 3)
    assert half == pytest.approx(
        4.302653 * 0.01 / math.sqrt(3), rel=1e-5
    )  # t of 2 degrees of freedom
    curve = groups[0].curve("val/acc")
    assert curve.epochs == [1, 2, 3]
    assert curve.mean == pytest.approx([0.91 / 3, 0.91 * 2 / 3, 0.91])
    assert curve.low[2] == pytest.approx(mean - half)
    best, worst = summary_table(groups)
    assert (best["lr"], best["runs"], best["val/acc"]) == ("0.1", "3", "91.00 [88.52, 93.48] %")
    assert worst["test/acc"] == "79.00 [79.00, 79.00] %"
    assert warnings_about(runs) == []


def test_seeds_on_one_split_are_one_setting(tmp_path: Path) -> None:
    """Also the seed that is the split's, by which one might think that the split follows the seed."""
    for seed in range(3):
        _write(tmp_path / f"a{seed}", seed, lr=0.1, split_seed=0)
        _write(tmp_path / f"b{seed}", seed, lr=0.5, split_seed=0)
    runs = gather([tmp_path])
    assert list(settings_that_differ(runs)) == ["optimizer.lr"]
    assert [len(g.runs) for g in group_runs(runs, settings_that_differ(runs))] == [3, 3]


def test_no_interval_of_one_value() -> None:
    assert interval([0.5])[0] == 0.5
    assert math.isnan(interval([0.5])[1])
    assert interval([])[2] == 0


def test_what_follows_from_a_class_is_no_setting_of_its_own(tmp_path: Path) -> None:
    adam = {"_target_": "torch.optim.Adam", "lr": 0.1, "betas": [0.9, 0.999]}
    _write(tmp_path / "a", optimizer=adam)
    _write(tmp_path / "b", optimizer={**adam, "lr": 0.2})
    _write(tmp_path / "c", lr=0.1)
    assert list(settings_that_differ(gather([tmp_path]))) == ["optimizer._target_", "optimizer.lr"]


def test_a_seed_counts_once(tmp_path: Path) -> None:
    """The same training once more says nothing new, and makes no interval narrower."""
    for seed in range(2):
        for again in "abc":
            _write(tmp_path / f"{again}{seed}", seed, acc=0.90 + 0.01 * seed)
    runs = gather([tmp_path])
    (group,) = group_runs(runs, settings_that_differ(runs))
    mean, half, n = group.mean("val/acc")
    assert (mean, n) == (pytest.approx(0.905), 2)
    curve = group.curve("val/acc")
    assert (curve.mean[-1], curve.high[-1]) == (
        pytest.approx(0.905),
        pytest.approx(min(mean + half, 1)),
    )
    _write(tmp_path / "alone" / "a", 5)
    _write(tmp_path / "alone" / "b", 5)
    runs = gather([tmp_path / "alone"])
    (group,) = group_runs(runs, settings_that_differ(runs))
    assert math.isnan(group.mean("val/acc")[1])  # an interval of one seed


def test_the_monitor_and_the_data_are_settings(tmp_path: Path) -> None:
    _write(tmp_path / "a", 0)
    _write(tmp_path / "b", 0, monitor="val/loss")
    runs = gather([tmp_path])
    assert settings_that_differ(runs) == {"checkpoint.monitor": ["val/acc", "val/loss"]}
    _write(tmp_path / "other" / "a", 0)
    _write(tmp_path / "other" / "b", 1, checksum="another")
    waiting = _write(tmp_path / "other" / "c", 2, state="running")
    waiting.provenance.unlink()
    runs = gather([tmp_path / "other"])
    assert [len(group.runs) for group in group_runs(runs, settings_that_differ(runs))] == [1, 1, 1]


def test_a_sweeps_overrides_are_its_settings(tmp_path: Path) -> None:
    for name, momentum in (("sgd", 0.0), ("momentum", 0.9)):
        for seed in range(2):
            optimizer = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": momentum}
            folder = _write(tmp_path / f"{name}{seed}", seed, optimizer=optimizer)
            overrides = ["sweep.name=s", f"optimizer={name}", f"seed={seed}", "data=mnist"]
            write_json(folder.job, {"overrides": overrides})
    settings = settings_that_differ(gather([tmp_path]))
    assert settings == {"optimizer": ["momentum", "momentum", "sgd", "sgd"]}


def test_what_does_not_compare_is_said(tmp_path: Path) -> None:
    _write(tmp_path / "a")
    _write(tmp_path / "b", dataset="digits", commit="d" * 40, dirty=True)
    damaged = _write(tmp_path / "c")
    damaged.result.write_text("{")
    damaged.config.write_text("a: [")
    runs = gather([tmp_path])
    said = " ".join(warnings_about(runs))
    assert "of 2 data sets and do not compare: mnist (2 runs), digits (1 runs)" in said
    assert "of 2 versions of the code: cccccccccc (2), dddddddddd+ (1)" in said
    assert "1 runs are of code that was changed since its commit" in said
    assert "result.json: cannot be read" in said
    groups = group_runs(runs, settings_that_differ(runs))
    assert {g.dataset for g in groups} == {"mnist", "digits"}


def _report(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["cnnexp.report", *arguments])
    with pytest.raises(SystemExit) as end:
        report.main()
    return end.value.code


def test_the_command_writes_tables_and_an_aggregate(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for seed in range(2):
        _write(Path("s") / f"a{seed}", seed, lr=0.1, acc=0.9)
    _write(Path("s") / "f", lr=0.5, state="failed", error="it </script> | broke")
    assert _report("s", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "90.00 [90.00, 90.00] %" in said
    with Path("s/results.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["state"] for r in rows] == ["done", "done", "failed"]
    assert [r["run"] for r in rows] == ["a0", "a1", "f"]
    assert rows[2]["error"] == "it </script> | broke"
    assert "| 0.1 | mnist | 2 | 90.00 [90.00, 90.00] % |" in Path("s/results.md").read_text()
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table("s/results.parquet").to_pylist()[0]["val/acc"] == 0.9
    events = EventAccumulator("s/tensorboard-means/lr=0.1").Reload()
    assert [e.value for e in events.Scalars("val/acc")] == pytest.approx([0.3, 0.6, 0.9])
    again = gather([Path("s")])
    assert len(again) == 3  # what it wrote is no run

    assert _report("nowhere", monkeypatch=monkeypatch) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    Path("empty").mkdir()
    assert _report("empty", monkeypatch=monkeypatch) == 2
    assert "holds no run (no status.json)" in capsys.readouterr().err


@pytest.mark.parametrize("count", [50, 1000])
def test_the_page_draws_itself_in_a_browser_without_errors(
    count: int, empty_folder: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(count):
        seed, lr = i % 5, 0.001 * (1 + i // 5 % 40)
        kind = "torch.optim.Adam" if i % 2 else "torch.optim.SGD"
        optimizer = {"_target_": kind, "lr": lr}
        _write(Path("s") / f"{i:04}", seed, acc=0.5 + 0.4 * (i % 97) / 97, optimizer=optimizer)
    _write(Path("s") / "failed", state="failed", error="</script><b>no</b>")
    assert _report("s", monkeypatch=monkeypatch) == 0
    page = drawn(empty_folder / "s" / "report.html")
    assert f"{count + 1} of {count + 1} runs" in page
    body = page.partition('id="runs"')[2].partition("</table>")[0]
    assert len(re.findall(r"<tr", body)) == count + 2  # and the head
    for plot in ("curves", "heat", "parallel", "time"):
        assert re.search(rf'id="{plot}"[^>]*js-plotly-plot|js-plotly-plot[^>]*id="{plot}"', page)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert data is not None
    assert len(json.loads(data[1])["runs"]) == count + 1
    assert "http://" not in re.sub(r"<script>.*?</script>", "", page, flags=re.S).replace(
        "http://www.w3.org", ""
    )


def test_no_axis_of_an_accuracy_goes_beyond_all(
    empty_folder: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around the only point of a single run."""
    _write(Path("s") / "0", 0, acc=0.99)
    assert _report("s", monkeypatch=monkeypatch) == 0
    page = drawn(empty_folder / "s" / "report.html")
    for plot, after in (("curves", "heat"), ("time", "runs")):
        drawing = page.partition(f'id="{plot}"')[2].partition(f'id="{after}"')[0]
        shares = [float(each) for each in re.findall(r">(-?[\d.]+)%</text>", drawing)]
        assert len(shares) > 1
        assert 0 <= min(shares) < max(shares) <= 100


def test_watching_goes_on_until_nothing_runs(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _write(Path("s") / "a", state="running")
    _write(Path("s") / "b")
    monkeypatch.setattr(report, "_REFRESH", 1)
    refreshed: list[bool] = []

    def end_it() -> None:
        page = empty_folder / "s" / "report.html"
        while not page.exists():
            time.sleep(0.05)
        refreshed.append('http-equiv="refresh" content="1"' in page.read_text(encoding="utf-8"))
        run.write_status("done")

    other = threading.Thread(target=end_it)
    other.start()
    assert _report("s", "--watch", monkeypatch=monkeypatch) == 0
    other.join()
    assert refreshed == [True]
    page = Path("s/report.html").read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in page  # nothing is to come any more
    assert "2 runs: 2 done" in page
