"""``accelerator=ddp_cpu`` from the command line: real processes, signals, torchrun."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cnnexp.runs import RunFolder
from tests.conftest import Command
from tests.warm_commands import WarmProcess

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not Path("/proc").is_dir(),
    reason="needs gloo and /proc",
)

LONG = (
    *("data=digits", "model=tiny", "accelerator=ddp_cpu", "backward=direct"),
    *("trainer.max_epochs=500", "logger=csv", "output_dir=out"),
)


def _until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _start(folder: Path, *arguments: str) -> WarmProcess:
    return WarmProcess(("cnnexp.train", *arguments), os.environ, folder, err_to_out=True)


def _run(folder: Path) -> RunFolder:
    (path,) = (folder / "out" / "train" / "tiny").iterdir()
    return RunFolder(path)


def _ranks_of(process: WarmProcess) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if b"cnnexp.execution.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def _epoch(run: RunFolder) -> int:
    status = run.read_status()
    return status.get("epoch", 0) if status.get("state") == "running" else 0


def test_signals_killed_ranks_and_a_killed_parent(empty_folder: Path) -> None:
    process = _start(empty_folder, *LONG)
    _until(lambda: list(empty_folder.glob("out/train/tiny/*/status.json")))
    run = _run(empty_folder)
    _until(lambda: _epoch(run) >= 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert output.count("SIGTERM: stopping after this step") == 1
    assert output.count("stopped by SIGTERM; status and checkpoints are in") == 1
    assert run.read_status()["state"] == "stopped"

    reached = run.read_status()["epoch"]
    process = _start(empty_folder, "run=latest", "output_dir=out")
    _until(lambda: _epoch(run) > reached)
    os.kill(_ranks_of(process)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    reason = "rank 1: its process was ended by SIGKILL (out of memory?)"
    assert f"failed: {reason} (more in " in output
    assert "Traceback" not in output
    assert run.read_status()["state"] == "failed"
    assert run.read_status()["error"] == reason

    reached = run.read_status()["epoch"]
    process = _start(empty_folder, "run=latest", "output_dir=out")
    _until(lambda: _epoch(run) > reached)
    ranks = _ranks_of(process)
    assert len(ranks) == 2
    process.kill()
    process.communicate(timeout=60)
    _until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), 20)


def test_torchrun_gives_one_folder_and_one_report(command: Command, empty_folder: Path) -> None:
    done = command(
        *("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cnnexp.train"),
        *LONG[:3],
        *("accelerator.devices=auto", "backward=auto", "trainer.max_epochs=2", "output_dir=out"),
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr
    run = _run(empty_folder)
    assert run.read_status()["state"] == "done"
    assert run.read_result()["epochs"] == 2
    assert done.stdout.count("epoch 2/2") == 1
    assert done.stdout.count("run folder ") == 1
    assert "torch.distributed.run" not in run.read_provenance()["command"]
    assert "Warning" not in done.stderr

    done = command(
        *("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cnnexp.train"),
        "optimizer=adm",
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 1
    assert done.stderr.count("cnnexp.train: optimizer=adm: unknown choice") == 1
