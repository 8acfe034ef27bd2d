"""Processes that run jobs: what a terminal or a cluster sends to all ends neither them nor their server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnnexp.execution import Job
from cnnexp.execution.processes import open_worker, take_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked")

# a command whose group gets a signal while its server imports, and again while its job starts
_COMMAND = """
import os, signal, sys, time
from cnnexp.execution import Job
from cnnexp.execution.processes import fork_warm, wait_for_any, warm_up
from tests.execution.test_processes import look

number = int(sys.argv[1])
signal.signal(number, lambda *_: None)
warm_up()
assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
os.killpg(0, number)
job = fork_warm(Job({}, sys.argv[2]), {}, 1, look)
os.killpg(0, number)
while job.exit_code() is None:
    wait_for_any([job], 0.1)
print("ended with", job.exit_code())
"""


def look(line: str, *_: object) -> None:
    """What a job sees of signals, in a file."""
    os.setsid()
    take_signals()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    takes = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    ready = takes == [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]
    Path(Job.from_json(line).folder).write_text(f"{sorted(blocked)} {ready}")
    sys.exit(7)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_to_all_processes_reach_neither_server_nor_a_job_that_starts(
    number: signal.Signals, tmp_path: Path
) -> None:
    file = tmp_path / "seen"
    command = [sys.executable, "-c", _COMMAND, str(int(number)), str(file)]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True)
    # SIGTERM to the job itself, as its launcher sends it, may come before the job takes it
    codes = (7, -number) if number != signal.SIGINT else (7,)
    assert done.stdout in [f"ended with {code}\n" for code in codes], done.stderr
    if not done.stdout.endswith(f"-{int(number)}\n"):
        assert file.read_text() == "[] True"


def test_a_worker_that_ctrl_c_ends_while_it_imports_leaves_the_words_to_others(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with open_worker(Job({}, str(tmp_path)), {}) as worker:
        worker.send_signal(signal.SIGINT)
        assert worker.wait() == 130
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""
