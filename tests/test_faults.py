"""Real faults, real processes: a full disk, folders that vanish, killed workers, no memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cnnexp.data import DataFileError
from cnnexp.runs import RunFolder
from cnnexp.training import failure_reason, read_checkpoint
from tests.test_train import SHORT, run_folders
from tests.warm_commands import WarmProcess

LONG = (*SHORT, "trainer.max_epochs=1000", "backward=native")


def _start(folder: Path, *arguments: str) -> WarmProcess:
    # small batches: threads would wait for each other
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # a group of its own, as a terminal's job
    return WarmProcess(
        ("cnnexp.train", *LONG, *arguments), environment, folder, err_to_out=True, new_session=True
    )


def _once(condition: Callable[[], object], process: WarmProcess) -> None:
    """Wait for it, as long as the process lives."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _epochs(folder: Path, number: int) -> Callable[[], bool]:
    return lambda: any(r.read_status().get("epoch", 0) >= number for r in run_folders(folder))


def _output(process: WarmProcess) -> str:
    out, _ = process.communicate(timeout=120)
    assert "Traceback" not in out
    return out


SMALL_DISK = """
set -e
mount -t tmpfs -o size={size} none {place}
cd {place}
code=0
{python} -m cnnexp.train {arguments} || code=$?
df --output=avail . | tail -n 1
cp -r outputs {copy}
exit $code
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``cnnexp.train`` on a file system of so many bytes; its outputs are in ``copy`` afterwards."""
    place = tmp_path / "small"
    place.mkdir()
    works = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(place)], capture_output=True
    )
    if works.returncode != 0:
        pytest.skip("this system lets its users mount no tmpfs of their own (unshare -rm)")

    def run(size: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = SMALL_DISK.format(
            size=size, place=place, copy=tmp_path / "copy", python=sys.executable,
            arguments=" ".join(arguments),
        )  # fmt: skip
        return subprocess.run(
            ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=240
        )

    return run


@pytest.mark.parametrize("size", ["100k", "1200k", "2200k"])
def test_on_a_full_disk_it_says_so_and_keeps_what_was_whole(
    small_disk: Callable[..., subprocess.CompletedProcess[str]], size: str, tmp_path: Path
) -> None:
    """LeNet-5 with Adam takes some 750 kB a checkpoint: none, one or two fit."""
    done = small_disk(size, *LONG)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "failed: no room left to write" in done.stdout
    (run,) = run_folders(tmp_path / "copy")
    status = run.read_status()
    assert status["state"] == "failed"
    assert "No space left on device): free some; run=<folder> resumes" in status["error"]
    assert not list(run.path.rglob("*.part"))
    files = list(run.checkpoints.glob("*")) if run.checkpoints.exists() else []
    assert (len(files) > 0) == (size != "100k")
    for file in files:
        read_checkpoint(file)


def test_a_checkpoint_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    process = _start(tmp_path, "trainer.max_epochs=20")
    _once(_epochs(tmp_path, 3), process)
    (run,) = run_folders(tmp_path)
    run.checkpoints.rename(tmp_path / "away")  # at once, whatever is being written
    out = _output(process)
    assert process.returncode == 0, out
    result = run.read_result()
    assert read_checkpoint(run.last_checkpoint)["cnnexp"]["finished"]
    # either a better epoch came later, or the last one was tested and is said to be
    assert run.best_checkpoint.exists() != (
        "No such file or directory; testing the last epoch instead" in out
    )
    assert run.best_checkpoint.exists() or result["best_epoch"] == 20


def test_a_run_folder_that_vanishes_ends_the_run_with_a_message(tmp_path: Path) -> None:
    process = _start(tmp_path)
    _once(_epochs(tmp_path, 2), process)
    (run,) = run_folders(tmp_path)
    run.path.rename(tmp_path / "elsewhere")
    out = _output(process)
    assert process.returncode == 1
    assert "is gone (No such file or directory): was it deleted under way?" in out
    moved = RunFolder(tmp_path / "elsewhere")
    assert read_checkpoint(moved.last_checkpoint)["cnnexp"]["epoch"] >= 1


def _workers(process: WarmProcess) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_a_killed_data_worker_ends_the_run_with_a_message(tmp_path: Path) -> None:
    process = _start(tmp_path, "data.num_workers=2")
    _once(_epochs(tmp_path, 1), process)
    worker = _workers(process)[0]
    os.kill(worker, signal.SIGKILL)
    out = _output(process)
    assert process.returncode == 1
    assert f"failed: a data worker (process {worker}) was killed or ran out of memory" in out
    (run,) = run_folders(tmp_path)
    assert run.read_status()["state"] == "failed"
    assert "lower data.num_workers" in run.read_status()["error"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_a_signal_to_the_whole_group_spares_the_workers_until_the_step_is_done(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = _start(tmp_path, "data.num_workers=2")
    _once(_epochs(tmp_path, 1), process)
    workers = _workers(process)
    assert len(workers) == 4  # training and validation
    os.killpg(process.pid, number)
    out = _output(process)
    assert process.returncode == code, out
    (run,) = run_folders(tmp_path)
    assert run.read_status()["state"] == "stopped"
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_picture_that_goes_bad_under_way_is_named(tmp_path: Path) -> None:
    """By a worker, whose exception brings a traceback with it."""
    loader = torch.utils.data.DataLoader(_Broken(), num_workers=1)
    with pytest.raises(DataFileError) as raised:
        next(iter(loader))
    assert "Traceback" in str(raised.value)
    assert failure_reason(raised.value).endswith("DataFileError: a.png: not a picture")


class _Broken(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise DataFileError("a.png: not a picture")


def test_out_of_memory_says_what_to_lower() -> None:
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(1 << 50)
    gpu = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB"
    )
    assert failure_reason(cpu.value).startswith("out of memory (asked for 4503599627370496 bytes)")
    assert failure_reason(gpu).startswith(
        "out of memory (asked for 2.50 GiB): lower data.batch_size"
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied", "x/y"), "cannot write x/y (Permission denied)"),
        (OSError(30, "Read-only file system", b"x"), "cannot write x (Read-only file system)"),
        (OSError(5, "Input/output error", "x"), "OSError: [Errno 5] Input/output error: 'x'"),
        (ValueError("one\n  two"), "ValueError: one two"),
    ],
)
def test_every_reason_is_one_line(error: Exception, reason: str) -> None:
    assert failure_reason(error).startswith(reason)
    assert "\n" not in failure_reason(error)
