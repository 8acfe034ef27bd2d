"""``python -m cnnexp.sweep``: looked at, stopped, retried."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cnnexp import sweep
from cnnexp.config import Composer, plain_config
from cnnexp.config.resolvers import register_resolvers
from cnnexp.sweeps import Ledger
from tests.conftest import Command

SMALL = (
    *("data=digits", "data.train_size=64", "data.val_size=20", "data.batch_size=16"),
    *("model=lenet5", "backward=direct", "accelerator=cpu", "trainer.max_epochs=1", "logger=csv"),
)


def _sweep(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["cnnexp.sweep", *arguments])
    with pytest.raises(SystemExit) as end:
        sweep.main()
    return end.value.code


def _ledger() -> Ledger:
    """A sweep of three jobs: one done, one that failed, one that nobody has begun."""
    register_resolvers()
    ledger = Ledger(Path("outputs") / "sweeps" / "opt")
    for seed in range(3):
        overrides = [*SMALL, f"seed={seed}"]
        job = ledger.add(plain_config(Composer("train").compose(overrides)), overrides)
        folder = ledger.folder(job)
        if seed == 0:
            folder.write_status("done", epoch=1, epochs=1)
            folder.write_result({"val/acc": 0.9, "test/acc": 0.8})
        if seed == 1:
            lines = ["one line", "its last"]
            folder.write_status("failed", error="it broke", last_lines=lines)
    return ledger


def test_status_shows_each_job_and_why_one_failed(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = _ledger()
    assert _sweep("status", "opt", monkeypatch=monkeypatch) == 1
    said = capsys.readouterr().out
    head, first, *_ = said.splitlines()
    assert head.split()[:3] == ["which", "job", "overrides"]
    assert first.startswith(f"0      {next(ledger.entries()).id}")
    assert "seed=0     done     1/1    90.00%   80.00%" in said
    assert "seed=2     waiting" in said
    assert "outputs/sweeps/opt: 3 jobs, 1 done, 1 failed, 1 waiting" in said
    assert "failed: it broke\n    one line\n    its last\n" in said
    assert _sweep("status", str(ledger.path), monkeypatch=monkeypatch) == 1


def test_stop_asks_those_that_run(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = _ledger()
    assert _sweep("stop", "opt", monkeypatch=monkeypatch) == 0
    waits = "outputs/sweeps/opt: no job runs; a launcher that waits with this sweep starts none\n"
    assert capsys.readouterr().out == waits
    assert ledger.stop.exists()
    ledger.stop.unlink()
    job = list(ledger.entries())[2]
    job.folder.write_status("running", epoch=0)
    assert ledger.entry(job.id).state == "interrupted"  # nobody has it
    claim = ledger.claim(job.id)
    assert claim is not None
    assert ledger.claim(job.id) is None
    assert _sweep("stop", "opt", monkeypatch=monkeypatch) == 0
    assert "1 running jobs write their checkpoints and stop" in capsys.readouterr().out
    assert ledger.stop.exists()
    claim.give_back()
    ledger.stop.unlink()
    job.folder.write_status("done")
    assert _sweep("stop", "opt", monkeypatch=monkeypatch) == 0
    said = "outputs/sweeps/opt: nothing runs, all 3 jobs are over\n"
    assert (capsys.readouterr().out, ledger.stop.exists()) == (said, False)


def test_status_shows_a_sweep_of_which_a_file_is_damaged(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = _ledger()
    done, failed, _ = [*ledger.entries()]
    done.folder.result.write_text("{")
    failed.folder.job.write_text("{")
    assert _sweep("status", "opt", monkeypatch=monkeypatch) == 1
    said = capsys.readouterr().out
    assert "3 jobs, 2 unreadable, 1 waiting" in said
    for job, file in ((done, done.folder.result), (failed, failed.folder.job)):
        assert f"{job.id} unreadable: {file}: cannot be read: " in said


def test_somebody_elses_sweep_can_be_looked_at(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = _ledger()
    job = list(ledger.entries())[2]
    job.folder.write_status("running", epoch=0)
    claim = ledger.claim(job.id)
    assert claim is not None

    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr("cnnexp.sweeps.ledger.os.open", refused)  # root may open all
    assert ledger.entry(job.id).state == "running"
    claim.give_back()


def test_a_sweep_that_is_not_there(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _sweep("status", "opz", monkeypatch=monkeypatch) == 2
    assert "opz: no such sweep; there is none in outputs/sweeps" in capsys.readouterr().err
    _ledger()
    assert _sweep("status", "opz", monkeypatch=monkeypatch) == 2
    assert "opz: no such sweep; there are: opt" in capsys.readouterr().err
    assert _sweep("retry", "opt", monkeypatch=monkeypatch) == 2
    assert "does not say which command began it" in capsys.readouterr().err


def test_retry_gives_the_command_again(command: Command, empty_folder: Path) -> None:
    ledger = _ledger()
    ledger.begin(["-m", "sweep.name=opt", *SMALL, "seed=1,2"])
    done = command("cnnexp.sweep", "retry", "opt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [e.state for e in ledger.entries()] == ["done"] * 3
