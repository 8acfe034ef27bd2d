"""What a sweep shows: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from cnnexp.sweeps import Ledger
from cnnexp.sweeps.view import View, names_of, table


def _sweep(folder: Path) -> Ledger:
    """One job that runs, one that is done, one that waits."""
    ledger = Ledger(folder / "s")
    jobs = []
    for seed in range(3):
        overrides = ["model=tiny", "regularization=[l2,ema]", f"seed={seed}"]
        jobs.append(ledger.add({"seed": seed}, overrides))
    running, done = ledger.folder(jobs[0]), ledger.folder(jobs[1])
    status = {"epoch": 2, "epochs": 10, "step": 20, "seconds": 60.0, "val/acc": 0.9}
    running.write_status("running", **status)
    ledger.claim(jobs[0])  # held by this process until it ends
    done.write_result({"val/acc": 0.95, "test/acc": 0.94})
    done.write_status("done", epoch=10, step=100)
    return ledger


def _entries(ledger: Ledger) -> dict[str, str]:
    return {entry.state: entry.id for entry in ledger.entries()}


def test_on_a_terminal_a_live_table_shows_what_runs_and_what_is_over(tmp_path: Path) -> None:
    ledger = _sweep(tmp_path)
    ids = _entries(ledger)
    assert set(ids) == {"running", "done", "waiting"}
    screen = io.StringIO()
    view = View(Console(file=screen, force_terminal=True, width=140, color_system=None))
    entries = list(ledger.entries())
    view.begin(ledger, entries, 2, 1, ["0", "1"])
    with view:
        view.started(ledger.entry(ids["running"]))
        view.over(ledger.entry(ids["done"]), ran=True)
        view.refresh([ids["running"]])
    view.end(entries)
    lines = screen.getvalue().splitlines()
    rows = [
        line.split()[1:] for line in lines if ids["running"] in line
    ]  # each drawing of the table
    assert rows
    half_a_minute_an_epoch = ["seed=0", "running", "2/10", "90.00%", "4:00"]
    assert all(row == half_a_minute_an_epoch for row in rows)
    titles = [line for line in lines if "1/3 over" in line]
    assert titles
    assert all("left" in title for title in titles)
    over = [line for line in lines if ids["done"] in line]
    assert any("done  val/acc 95.00%  test/acc 94.00%" in line and "(1/3)" in line for line in over)


def test_elsewhere_a_line_a_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = _sweep(tmp_path)
    ids = _entries(ledger)
    view = View(Console(file=io.StringIO()))
    with caplog.at_level(logging.INFO):
        view.begin(ledger, list(ledger.entries()), 1, 2, [])
        with view:
            view.started(ledger.entry(ids["running"]))
            view.over(ledger.entry(ids["done"]), ran=False)
        view.end(list(ledger.entries()))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"sweep {ledger}: 3 jobs, 1 at a time, 2 threads each",
        f"{ids['running']}  runs (resumes, epoch 3)  seed=0",
        f"{ids['done']}  is done already  val/acc 95.00%  test/acc 94.00%  seed=1  (1/3)",
        f"sweep {ledger}: 1 done, 1 running, 1 waiting",
    ]


def test_brackets_of_an_override_are_shown(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s")
    for name in ("[l2,ema]", "[red]"):
        ledger.add({"name of it": name}, [f"regularization={name}"])
    entries = list(ledger.entries())
    screen = Console(file=io.StringIO(), width=120)
    screen.print(table(entries, names_of(entries), "sweeps/[x]"))
    assert isinstance(screen.file, io.StringIO)
    said = screen.file.getvalue()
    assert all(text in said for text in ("regularization=[l2,ema]", "regularization=[red]", "[x]"))
