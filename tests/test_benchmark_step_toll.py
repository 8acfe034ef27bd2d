"""The benchmark of what a run costs around a step takes its turns; no clock is asserted."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_runs_and_the_plain_loop_take_turns(tmp_path: Path) -> None:
    file = tmp_path / "toll.csv"
    program = [sys.executable, str(ROOT / "benchmarks" / "step_toll.py"), "--small", "--epochs=2"]
    done = subprocess.run(
        [*program, f"--csv={file}"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    # two epochs of 162 batches have a block each, the first of which compiles
    assert [(row["steps_per_call"], row["steps"]) for row in rows] == [
        ("1", "100"),
        ("10", "100"),
        ("50", "100"),
    ]
    for row in rows:
        assert float(row["milliseconds_run"]) > 0
        quotient = float(row["milliseconds_run"]) / float(row["milliseconds_loop"])
        assert abs(quotient - float(row["ratio"])) < 0.01
