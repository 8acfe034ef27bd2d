"""Jobs in real processes: several at a time, on GPUs handed out, with limits, killed and retried."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.resolvers import register_resolvers
from cnnexp.execution import Job
from cnnexp.sweeps import JobStatus, Ledger, launcher
from cnnexp.sweeps.launcher import LauncherSettings, LocalLauncher, Task
from cnnexp.sweeps.view import View
from tests.sweeps.crash import compare

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked")

SMALL = (
    *("data=digits", "data.train_size=64", "data.val_size=10", "data.batch_size=16"),
    *("model=lenet5", "backward=direct", "trainer.max_epochs=2", "logger=csv"),
)


def _tasks(ledger: Ledger, jobs: list[list[str]], *, retry: bool = False) -> list[Task]:
    register_resolvers()
    tasks = []
    for overrides in jobs:
        config = plain_config(Composer("train").compose([*SMALL, *overrides]))
        job = ledger.add(config, overrides)
        failed = str(ledger.entry(job).status.get("time")) if retry else None
        allowed = ("tests.sweeps.probes.",)
        tasks.append(Task(job, Job(config, str(ledger.folder(job)), allowed), failed))
    return tasks


def _launch(
    ledger: Ledger, each: list[list[str]], *, retry: bool = False, **settings: Any
) -> list[JobStatus]:
    view = View(Console(file=io.StringIO()))
    launcher = LocalLauncher(ledger, LauncherSettings(**settings), view)
    return launcher.run(_tasks(ledger, each, retry=retry))


def _probe(name: str, **arguments: Any) -> list[str]:
    given = [f"+callbacks.probe.{key}={value}" for key, value in arguments.items()]
    return [f"+callbacks.probe._target_=tests.sweeps.probes.{name}", *given]


def test_gpus_are_handed_out_before_cuda_is_asked_for_and_never_twice(empty_folder: Path) -> None:
    notes = empty_folder / "notes"
    jobs = [[f"seed={seed}", *_probe("Note", file=notes)] for seed in range(5)]
    entries = _launch(Ledger("s"), jobs, jobs=4, gpus=[3, 5], jobs_per_gpu=1, threads=1)
    assert [e.state for e in entries] == ["done"] * 5
    seen = [json.loads(line) for line in notes.read_text().splitlines()]
    assert {s["gpus"] for s in seen} == {"3", "5"}
    assert not any(s["cuda was asked for"] for s in seen)
    assert {s["threads"] for s in seen} == {1}
    for gpu in ("3", "5"):
        times = sorted((s["began"], s["ended"]) for s in seen if s["gpus"] == gpu)
        for (_, ended), (began, _) in pairwise(times):
            assert ended < began


def test_a_job_that_falls_harms_no_other_and_can_be_retried(
    empty_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger("s")
    ways = ["none", "error", "SIGKILL", "SIGSEGV"]
    jobs = [_probe("Fall", how=how) for how in ways]
    with caplog.at_level("INFO"):
        fine, error, killed, crashed = _launch(ledger, jobs, jobs=2)
    assert [e.state for e in (fine, error, killed, crashed)] == ["done", *["failed"] * 3]
    assert error.status["error"] == "ValueError: it cannot go on"
    assert killed.status["error"] == "its process was ended by SIGKILL (out of memory?)"
    assert "last words" in killed.status["last_lines"]
    assert crashed.status["error"] == "its process was ended by SIGSEGV"
    assert "sweep s: 1 done, 3 failed" in caplog.text
    assert f"{killed.id}  failed: its process was ended by SIGKILL" in caplog.text

    again = _launch(ledger, jobs, jobs=2)  # without retry: nothing runs
    assert [e.status.get("time") for e in again] == [
        e.status.get("time") for e in (fine, error, killed, crashed)
    ]
    retried = _launch(ledger, jobs, jobs=2, retry=True)
    assert [e.state for e in retried] == ["done", *["failed"] * 3]  # once, not for ever
    assert retried[0].status == fine.status
    assert (ledger.path / killed.id / "train.log").read_text().count("last words") == 2


def test_limits_of_time_and_memory(empty_folder: Path) -> None:
    slow = _probe("Wait", seconds=0.2)
    ledger = Ledger("s")
    (stopped,) = _launch(ledger, [slow], time_limit=1.0)
    assert stopped.state == "stopped"
    assert stopped.status["error"] == "time limit of 1 s; the same command resumes it"
    (done,) = _launch(ledger, [slow])
    assert done.state == "done"
    (large,) = _launch(ledger, [["seed=1", *slow]], memory_limit=0.01)
    assert large.state == "failed"
    assert "GiB of memory, more than memory_limit=0.01" in large.status["error"]


RANKS = ("accelerator=ddp_cpu", "accelerator.devices=2")


@pytest.mark.parametrize(
    ("limit", "more"),
    [(0.001, ()), (0.001, RANKS), (1.0, _probe("Deaf", seconds=0.2))],
    ids=["before it listens", "before its ranks begin", "deaf"],
)
def test_a_job_over_its_time_is_resumed_however_it_ended(
    limit: float, more: Sequence[str], empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_PATIENCE", 0.5)  # seconds, after which it is killed
    ledger = Ledger("s")
    (stopped,) = _launch(ledger, [[*more]], time_limit=limit)
    assert stopped.state == "stopped"
    assert stopped.status["error"] == f"time limit of {limit:g} s; the same command resumes it"
    (done,) = _launch(ledger, [[*more]])
    assert done.state == "done"


def test_a_failed_job_that_is_retried_and_ends_at_once_has_failed_anew(
    empty_folder: Path,
) -> None:
    falls = _probe("Fall", how="error")
    ledger = Ledger("s")
    (failed,) = _launch(ledger, [falls])
    assert (failed.state, "it cannot go on" in failed.status["error"]) == ("failed", True)
    (again,) = _launch(ledger, [falls], retry=True, memory_limit=0.001)
    assert again.state == "failed"
    assert "GiB of memory, more than memory_limit=0.001" in again.status["error"]
    (stopped,) = _launch(ledger, [falls], retry=True, time_limit=0.001)
    assert stopped.state == "stopped"


def _later(ledger: Ledger, action: Any) -> threading.Thread:
    """Act once a job has done an epoch."""

    def act() -> None:
        while not any(e.state == "running" and e.status.get("epoch") for e in ledger.entries()):
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_stopped_by_ctrl_c_or_from_elsewhere_the_same_command_goes_on(empty_folder: Path) -> None:
    ledger = Ledger("s")
    jobs = [
        [f"seed={seed}", "trainer.max_epochs=6", *_probe("Wait", seconds=0.1)] for seed in (0, 1)
    ]
    _tasks(ledger, jobs)
    for action, code in (
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130),
        (ledger.ask_to_stop, 143),
        (lambda: os.kill(os.getpid(), signal.SIGUSR1), 143),
    ):
        thread = _later(ledger, action)
        with pytest.raises(SystemExit) as stop:
            _launch(ledger, jobs, jobs=1)
        thread.join()
        assert stop.value.code == code
        ends = {e.state: e.status.get("error") for e in ledger.entries()}
        assert "stopped" in ends, ends
        ledger.begin([])
    entries = _launch(ledger, jobs, jobs=2)
    assert [e.state for e in entries] == ["done", "done"]
    assert "resuming from" in (ledger.path / entries[0].id / "train.log").read_text()


def test_a_stop_that_comes_while_a_job_starts_reaches_it_and_the_next_does_not_start(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = launcher.fork_warm

    def stopped(*arguments: Any) -> Any:
        process = start(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(launcher, "fork_warm", stopped)
    ledger, slow = Ledger("s"), _probe("Wait", seconds=0.5)
    with pytest.raises(SystemExit) as stop:
        _launch(ledger, [["seed=0", *slow], ["seed=1", *slow]], jobs=2)
    assert stop.value.code == 130
    first, second = [e.state for e in ledger.entries()]
    assert first in ("waiting", "interrupted", "stopped")  # as far as it had come
    assert second == "waiting"


def test_a_job_that_needs_more_gpus_than_there_are(empty_folder: Path) -> None:
    ledger = Ledger("s")
    config = plain_config(Composer("train").compose([*SMALL, "accelerator=ddp"]))
    config["accelerator"]["devices"] = 3
    task = Task(ledger.add(config, []), Job(config, "s/x"))
    launcher = LocalLauncher(
        ledger, LauncherSettings(gpus=[0, 1]), View(Console(file=io.StringIO()))
    )
    with pytest.raises(
        ConfigError, match=r"devices=3: the launcher has 2 GPUs to hand out \(0, 1\)"
    ):
        launcher.run([task])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jobs": 0}, r"hydra\.launcher\.jobs=0: must be auto or a whole number, at least 1"),
        ({"jobs": "many"}, r"hydra\.launcher\.jobs=many: must be auto or a whole number"),
        ({"threads": 0}, r"hydra\.launcher\.threads=0: must be a whole number, at least 1"),
        ({"gpus": "all"}, r"hydra\.launcher\.gpus=all: must be auto or a list, as in \[0,1\]"),
        ({"gpus": 0}, r"hydra\.launcher\.gpus=0: must be auto or a list"),
        ({"time_limit": -1}, r"hydra\.launcher\.time_limit=-1: must be a number above 0, or null"),
        (
            {"time_limit": "1h"},
            r"hydra\.launcher\.time_limit=1h: must be a number above 0, or null",
        ),
        ({"memory_limit": True}, r"hydra\.launcher\.memory_limit=True: must be a number above 0"),
        ({"jobs_per_gpu": True}, r"hydra\.launcher\.jobs_per_gpu=True: must be a whole number"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LauncherSettings(**settings)


DAMAGED = ("status", "result", "provenance", "job")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_job_that_cannot_be_read_is_said_and_leaves_the_others_alone(
    name: str, empty_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger("s")
    (before,) = _launch(ledger, [["seed=0"]])
    file: Path = getattr(before.folder, name)
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    with caplog.at_level("INFO"):
        damaged, other = _launch(ledger, [["seed=0"], ["seed=1"]])
    assert (damaged.state, other.state) == ("unreadable", "done")
    assert f"{damaged.id}  unreadable: {file}: cannot be read: " in caplog.text
    said = f"; mend the file, or delete {before.folder}: the job runs again then"
    assert said in caplog.text
    file.write_text(whole)
    (mended,) = _launch(ledger, [["seed=0"]])
    assert mended.state == "done"


def test_a_job_whose_process_leaves_half_a_status_has_failed(empty_folder: Path) -> None:
    (failed,) = _launch(Ledger("s"), [_probe("Tear")])
    assert failed.state == "failed"
    assert "status.json: cannot be read" in failed.status["error"]


def test_killed_launchers_and_jobs_leave_what_an_undisturbed_sweep_leaves(tmp_path: Path) -> None:
    report = compare(tmp_path, jobs=4, kills=2, seed=1)
    assert report.launchers_killed + report.jobs_killed == 2
    assert report.same_bits == report.done_once == 4


@pytest.mark.long
def test_sixty_jobs_and_ten_kills(tmp_path: Path) -> None:
    report = compare(tmp_path, jobs=60, kills=10, seed=0)
    assert report.launchers_killed + report.jobs_killed == 10
    assert report.same_bits == report.done_once == 60
