"""``trainer.fast_dev_run`` tries everything and leaves nothing that could be taken for a run."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from cnnexp import train
from cnnexp.config import ConfigError
from cnnexp.config.selection import run_to_use
from cnnexp.runs import RunFolder
from tests.config.tiny_runs import TINY

FAILING = ("+callbacks.spy._target_=tests.config.tiny_runs.Spy", "+callbacks.spy.fail_at=1")


@pytest.fixture
def scratch(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The system's temporary files."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("CNNEXP_ALLOW_TARGETS", "tests.")
    return folder


def _exit_code(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> object:
    tiny = [f"{key}={value}" for key, value in TINY.items()]
    monkeypatch.setattr(sys, "argv", ["cnnexp.train", *overrides, *tiny])
    with pytest.raises(SystemExit) as stop:
        train.main()
    return stop.value.code


@pytest.mark.usefixtures("own_logging")
def test_what_goes_through_leaves_nothing(
    scratch: Path,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _exit_code(monkeypatch, "+trainer.fast_dev_run=true") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "fast_dev_run: everything goes through; nothing is kept"
    assert not any("run folder" in line for line in lines)
    assert list(empty_folder.iterdir()) == list(scratch.iterdir()) == []
    with pytest.raises(ConfigError, match="run=latest: there is no run in outputs"):
        run_to_use(["run=latest"])


@pytest.mark.usefixtures("own_logging")
def test_what_fails_leaves_its_log_where_no_run_is_looked_for(
    scratch: Path,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _exit_code(monkeypatch, "+trainer.fast_dev_run=2", *FAILING) == 1
    assert list(empty_folder.iterdir()) == []
    (folder,) = scratch.iterdir()
    run = RunFolder(folder)
    assert run.read_status()["state"] == "failed"
    assert "Traceback" in run.log.read_text()
    assert f"failed: RuntimeError: as asked for (more in {run.log})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["-m", "seed=0,1"], "trainer.fast_dev_run: tries one run out and keeps nothing, which a swe"),
        (["hydra.run.dir=here"], "trainer.fast_dev_run: keeps nothing, so that there is nothing for h"),
    ],
)  # fmt: skip
def test_what_it_cannot_be_combined_with(
    scratch: Path,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    assert _exit_code(monkeypatch, *overrides, "+trainer.fast_dev_run=true") == 2
    assert capsys.readouterr().err.startswith(f"cnnexp.train: {message}")
    assert list(empty_folder.iterdir()) == list(scratch.glob("cnnexp*")) == []
