"""One frame for all commands: what they exit with, and what they say as they do."""

from __future__ import annotations

import errno
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnexp.commandline import Misuse, check_writable, code_of, names_among
from cnnexp.config import ConfigError
from cnnexp.runs import FolderInUseError
from cnnexp.suggestions import nearest
from tests.conftest import ROOT
from tests.test_house import PROJECT

COMMANDS = {target.partition(":")[0] for target in PROJECT["project"]["scripts"].values()}
# For each command arguments that nothing can come of, said before anything heavy is imported
REFUSED = {
    "cnnexp.attack": ["method=loss"],
    "cnnexp.bench": ["ops", "--rounds=0"],
    "cnnexp.diagnose": ["--try", "0"],
    "cnnexp.evaluate": ["split=val"],
    "cnnexp.explain": ["image="],
    "cnnexp.export": ["format=onnx"],
    "cnnexp.grade": ["conv2d"],
    "cnnexp.gradcheck": ["--json=no/where.json"],
    "cnnexp.lr_find": ["run=latest"],
    "cnnexp.new": ["no-name"],
    "cnnexp.predict": ["run=latest"],
    "cnnexp.report": ["nowhere"],
    "cnnexp.sweep": ["stop", "nowhere"],
    "cnnexp.train": ["--multirn"],
}
LIGHT = {"cnnexp.new", "cnnexp.report", "cnnexp.sweep"}  # without torch


def _raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Misuse("x=1: must be 2"), 2, "cnnexp.x: x=1: must be 2\n"),
        (ConfigError("x=1: must be 2"), 2, "cnnexp.x: x=1: must be 2\n"),
        (KeyboardInterrupt(), 130, "cnnexp.x: stopped by Ctrl-C\n"),
        (OSError(errno.EACCES, "Not allowed", "a.csv"), 1, "cnnexp.x: a.csv: Not allowed\n"),
        (
            OSError(errno.ENOSPC, "No space left"),
            1,
            "cnnexp.x: No space left; make room, and give the command again\n",
        ),
        (FolderInUseError("in use\nby  another"), 1, "cnnexp.x: in use by another\n"),
        (RuntimeError("CUDA out of memory"), 1, "cnnexp.x: CUDA out of memory\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_how_a_command_ends(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of("cnnexp.x", _raising(error)) == code
    assert capsys.readouterr() == ("", said)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable("--json", None)
    check_writable("--json", tmp_path / "a.json")
    check_writable("--json", Path(os.devnull))
    with pytest.raises(Misuse, match=r"--json=/nowhere/a: there is no folder /nowhere$"):
        check_writable("--json", Path("/nowhere/a"))
    with pytest.raises(Misuse, match=r": is a folder; name a file in it$"):
        check_writable("--json", tmp_path)
    monkeypatch.setattr("cnnexp.commandline.os.access", lambda *_: False)  # root may write all
    with pytest.raises(Misuse, match=r"there is no permission to write it; name another file$"):
        check_writable("--json", tmp_path / "a.json")


def test_a_bug_keeps_its_traceback() -> None:
    for error in (RuntimeError("mat1 and mat2"), ValueError("a bug"), SystemExit(143)):
        with pytest.raises(type(error)):
            code_of("cnnexp.x", _raising(error))


def test_one_of_the_processes_that_torchrun_started_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    assert code_of("cnnexp.x", _raising(Misuse("said once"))) == 2
    assert capsys.readouterr().err == ""


def test_all_commands_are_tried() -> None:
    assert set(REFUSED) == COMMANDS


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_every_command_is_in_the_frame(
    name: str,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [name, *REFUSED[name]])
    with pytest.raises(SystemExit) as stop:
        command.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith(f"{name}: ")
    assert said.count("\n") == 1
    framed: list[str] = []
    monkeypatch.setattr(command, "run_command", lambda name, action: framed.append(name))
    command.main()
    assert framed == [name]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_imports_no_torch(name: str) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{name!r}, '--help']\n"
        f"try: runpy.run_module({name!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'sklearn', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python -m {name}" in done.stdout


def test_names_in_a_flag() -> None:
    assert names_among("--op", None, ("a", "b")) == ["a", "b"]
    assert names_among("--op", "b, a", ("a", "b")) == ["b", "a"]
    with pytest.raises(
        Misuse, match=r"^--op=rleu: unknown; known: relu, tanh; did you mean 'relu'\?$"
    ):
        names_among("--op", "relu,rleu", ("relu", "tanh"))
    with pytest.raises(Misuse, match=r"^--op=x: unknown; known: relu, tanh$"):
        names_among("--op", "x", ("relu", "tanh"))


def test_what_is_near_is_found_in_one_place() -> None:
    assert nearest("adm", ["sgd", "adam"]) == "adam"
    assert nearest("adm", ["sgd", "adam"], least=0.9) is None
    assert nearest("x", []) is None
    users = [
        file.name
        for file in (ROOT / "src").rglob("*.py")
        if re.search(r"^import difflib|get_close_matches", file.read_text(encoding="utf-8"), re.M)
    ]
    assert users == ["suggestions.py"]


@pytest.mark.parametrize("command", sorted(COMMANDS - LIGHT))
def test_what_a_command_imports_is_imported_quickly(command: str) -> None:
    """By itself, or by the check of a job, which does."""
    assert vars(importlib.import_module(command)).keys() & {"quick_imports", "checked_job"}
