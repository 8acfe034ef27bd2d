"""The package of one's own: it trains, sweeps and tests itself; bad names leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cnnexp.commandline import Misuse
from cnnexp.new import main
from cnnexp.scaffold import check_name, make_package
from tests.conftest import ROOT


def _python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests_are_green_and_it_sweeps(tmp_path: Path) -> None:
    files = make_package(tmp_path / "exp2")
    assert sorted(p.relative_to(tmp_path / "exp2") for p in (tmp_path / "exp2").rglob("*.*") if p.is_file()) \
        == sorted(f for f in files if f.suffix or f.name.startswith("."))  # fmt: skip
    for file in (tmp_path / "exp2").rglob("*"):
        if file.is_file():
            assert not re.search("my_?lab", file.read_text(encoding="utf-8"), re.I), file
    assert "5 passed" in _python(tmp_path / "exp2", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    short = ("trainer.max_epochs=1", "accelerator=cpu", "backward=direct")
    _python(tmp_path / "exp2", "-m", "exp2", "-m", "experiment=first", "seed=0,1", *short)
    assert len([*(tmp_path / "exp2").glob("outputs/sweeps/first/*/result.json")]) == 2


def test_what_it_makes_is_formatted_and_says_what_it_is(tmp_path: Path) -> None:
    make_package(tmp_path / "one")
    for file in (tmp_path / "one").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        compile(text, file.name, "exec")
        assert text.startswith('"""')
        assert max(map(len, text.splitlines())) <= 120
    for file in (tmp_path / "one").rglob("*.yaml"):
        assert file.read_text(encoding="utf-8").startswith("# ")


BAD = {
    "My-Lab": "must be the name of a Python package",
    "1st": "must be the name of a Python package",
    "class": "must be the name of a Python package",
    "naïve": "must be the name of a Python package.*Did you mean 'na_ve'",
    "Two Words": "must be the name of a Python package.*Did you mean 'two_words'",
    ".": "must be the name of a Python package",
    "json": "json: there is a module of this name",
    "torch": "torch: there is a module of this name",
    "cnnexp": "cnnexp: there is a module of this name",
    "nowhere/lab": "there is no folder .*nowhere",
    "taken": "taken: is there already",
    "file": "file: is there already",
    "link": "link: is there already",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_one_line_and_writes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nothing")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as end:
        main([name])
    assert end.value.code == 2
    said = capsys.readouterr()
    assert re.search(BAD[name], said.err)
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_what_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        make_package(tmp_path / "lab_of_mine")
    assert not list(tmp_path.iterdir())


def test_a_name_is_the_last_part_of_a_path(tmp_path: Path) -> None:
    assert check_name(tmp_path / "lab_of_mine") == "lab_of_mine"
    with pytest.raises(Misuse, match="there is no folder"):
        check_name(tmp_path / "no" / "lab_of_mine")
