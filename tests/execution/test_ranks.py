"""Ranks that a signal ends before they listen to it: the training is stopped, not failed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cnnexp.config import Composer, plain_config
from cnnexp.execution import Job, run_job
from cnnexp.runs import RunFolder
from tests.execution.test_run import SMALL

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux")


def _children() -> list[str]:
    threads = Path(f"/proc/{os.getpid()}/task").iterdir()
    return [child for thread in threads for child in (thread / "children").read_text().split()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_they_start(
    number: int, code: int, empty_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = [each for each in SMALL if each != "accelerator=cpu"]
    overrides = [*alone, "accelerator=ddp_cpu", "accelerator.devices=2"]
    config = plain_config(Composer("train").compose(overrides))
    before = len(_children())

    def send() -> None:
        while len(_children()) < before + 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as stopped:
        run_job(Job(config, str(empty_folder), ()))
    sender.join()
    assert stopped.value.code == code
    by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert RunFolder(empty_folder).read_status()["error"] == f"stopped by {by}"
    assert f"stopped by {by}; the status is in {empty_folder}" in caplog.text
    assert len(_children()) == before
