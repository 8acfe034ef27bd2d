"""``benchmarks/gpu.py`` where there is no GPU: tiny sizes, and a row for all that needs one."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.warm_commands import run_warm

SCRIPT = ROOT / "benchmarks" / "gpu.py"
# What a part says on a CPU: (what, the state of its rows), in short.
PARTS = {
    "facts": {("small kernel", "ok"), ("Triton", "skipped")},
    "steps": {("step, batch 4", "ok"), ("first 5 steps, batch 4", "skipped")},
    "compile": {("first 5 steps, batch 4", "ok"), ("first 5 steps, batch 4", "skipped")},
    "accuracy": {("conv2d one small image bfloat16", "ok")},
    "private": {("clipped sums of tanh_cnn", "ok"), ("noise", "ok")},
    "proofs": {("relu", "ok"), ("all ops", "ok")},
    "resume": {("run and resume", "ok")},
    "ddp": {("ddp, one rank over gloo", "ok")},
    "fsdp": {("fsdp, one rank", "skipped")},
    "choices": {("an epoch with", "ok")},
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("gpu")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_without_a_gpu(part: str, empty_folder: Path) -> None:
    rows = empty_folder / "rows.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    done = run_warm(
        ("gpu", "--part", part, "--rows", str(rows), "--device", "cpu"), environment, empty_folder
    )
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert {(row["what"], row["state"]) for row in made} >= PARTS[part], made
    for row in made:
        assert row["part"] == part
        assert row["state"] in ("ok", "skipped"), row
        assert row["state"] == "ok" or row["note"].startswith("needs cuda: "), row


def test_every_part_is_tried_without_a_gpu(gpu: ModuleType) -> None:
    assert {*PARTS, "sweep"} == set(gpu.PARTS)


def test_the_limits_are_below_eight_minutes(gpu: ModuleType) -> None:
    stages = [max(part.seconds for part in stage) for stage in gpu.STAGES]
    assert sum(stages[:-1]) < gpu.WHOLE < 480


def _run_part(gpu: ModuleType, folder: Path, program: str, limit: float) -> list[dict[str, str]]:
    table = gpu.Table(folder / "gpu.csv", folder / "gpu.log")
    rows = folder / "rows.jsonl"
    program = f"import time, sys; rows = open({str(rows)!r}, 'a'); {program}"
    gpu.run_part("a", [sys.executable, "-c", program], rows, limit, table, os.environ)
    with (folder / "gpu.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_part_that_hangs_is_ended_and_its_rows_stay(gpu: ModuleType, tmp_path: Path) -> None:
    row = json.dumps({"part": "a", "what": "b", "state": "ok"})
    program = f"print({row!r}, file=rows, flush=True); print('cut', file=rows); time.sleep(60)"
    first, end = _run_part(gpu, tmp_path, program, 2)
    assert (first["what"], first["state"]) == ("b", "ok")
    assert (end["state"], end["note"]) == ("killed", "was not done after its limit of 2 s")


def test_a_part_that_crashes_says_its_last_line(gpu: ModuleType, tmp_path: Path) -> None:
    program = "print('CUDA error: out of luck', file=sys.stderr); sys.exit(3)"
    (end,) = _run_part(gpu, tmp_path, program, 60)
    assert (end["state"], end["note"]) == ("failed", "exit code 3: CUDA error: out of luck")
    assert "==== a\nCUDA error" in (tmp_path / "gpu.log").read_text(encoding="utf-8")


def test_only_missing_packages_come_from_the_wheels(gpu: ModuleType, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in (
        "numpy-0.1-py3-none-any",
        "never_heard_of-1.0-py3-none-any",
        "c-1-cp311-cp311-any",
    ):
        with zipfile.ZipFile(wheels / f"{name}.whl", "w") as archive:
            archive.writestr(f"{name.partition('-')[0]}/__init__.py", "")
    found = gpu._unpacked(wheels, tmp_path / "unpacked")
    assert [each.name for each in found.iterdir()] == ["never_heard_of"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "facts,stesp"], "--parts=stesp: unknown; known: facts, steps"),
        (["--wheels", "no/such"], "--wheels=no/such: is no folder"),
    ],
)
def test_a_wrong_command_line_is_one_message(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert gpu.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_error_is_a_row_and_the_next_is_tried(gpu: ModuleType, tmp_path: Path) -> None:
    rows = importlib.import_module("gpu_parts.rows").Rows("a", None, torch.device("cpu"))
    with rows.trying("one") as row:
        row["value"] = 1.23456789
    with rows.trying("two"):
        raise ValueError("so\nit goes")
    made: list[dict[str, Any]] = rows.made
    assert [each["state"] for each in made] == ["ok", "failed"]
    assert made[0]["value"] == 1.2346
    assert made[1]["note"] == "ValueError: so it goes"
    with pytest.raises(RuntimeError, match="the GPU is lost"), rows.trying("three"):
        raise RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.long
def test_the_whole_script(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "gpu.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ends = {row["part"]: row["state"] for row in rows if row["what"] == "part"}
    assert ends == dict.fromkeys([*PARTS, "sweep"], "ok")
