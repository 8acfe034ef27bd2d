"""Trainings that are killed: some here, many behind the marker ``long``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("runs", [4, pytest.param(40, marks=pytest.mark.long)])
def test_killed_runs_end_as_if_nothing_had_happened(runs: int) -> None:
    command = [sys.executable, "-m", "tests.crash", "--runs", str(runs), "--seed", str(runs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{runs} of {runs} runs the same to the bit" in done.stdout
