"""The commands that use a trained network say which run they use, and take a sweep."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from cnnexp.runs import RunFolder
from cnnexp.runs.files import write_json

COMMANDS = {
    "evaluate": ["--json"],
    "predict": ["x.png", "--json", "--as", "picture"],
    "explain": ["image=1"],
    "export": ["format=safetensors"],
    "diagnose": [],
}


@pytest.fixture
def sweep(digits_run: RunFolder, empty_folder: Path) -> list[Path]:
    """Two jobs of a sweep, the first of which is better by validation and older."""
    Image.new("L", (28, 28), 255).save("x.png")
    folders = []
    for seed, accuracy in enumerate((0.75, 0.5)):
        folder = RunFolder(Path("outputs/sweeps/s") / f"{seed}abcdef")
        shutil.copytree(digits_run.path, folder.path)
        write_json(folder.job, {"overrides": [f"seed={seed}"]})
        folder.write_result({**folder.read_result(), "val/acc": accuracy})
        folder.write_status("done")
        folders.append(folder.path)
    return folders


def _typed(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", [f"cnnexp.{name}", *arguments])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"cnnexp.{name}").main()
    return stop.value.code


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_takes_a_sweep_and_says_which_job_it_uses(
    name: str,
    sweep: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    best = f"uses {sweep[0]}, job 0 of its sweep (seed=0): the largest val/acc, 0.75, of 2 done"
    for run, said in (
        (["run=latest"], best),
        (["run=s", "which=best"], best),
        (["run=s", "which=1"], f"uses {sweep[1]}, job 1 of its sweep (seed=1), which is done"),
    ):
        assert _typed(name, *run, *COMMANDS[name], monkeypatch=monkeypatch) == 0
        printed = capsys.readouterr()
        assert printed.err == f"cnnexp.{name}: {said}\n"
        if name == "evaluate":
            assert json.loads(printed.out)["run"] in said
        if name == "predict":
            assert len(json.loads(printed.out)) == 1
        if name in ("explain", "export", "diagnose"):
            assert said.split(",")[0].removeprefix("uses ") in printed.out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_job_that_is_not_there_is_one_line(
    name: str,
    sweep: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _typed(name, "run=s", "which=2", *COMMANDS[name], monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(
        f"cnnexp.{name}: which=2: the sweep outputs/sweeps/s has no such job; say best, a number (0 to 1)"
    )
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_help_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _typed(name, "--help", monkeypatch=monkeypatch) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "run=<folder>|<sweep>|latest" in printed
    assert "which=best|<number>|<job id> of a sweep (default: best by validation)" in printed


def test_which_without_a_run_is_explained(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _typed("explain", "which=best", "data=digits", monkeypatch=monkeypatch) == 2
    assert "which=best: goes with run=<folder>" in capsys.readouterr().err
