"""``hydra/launcher=slurm`` on a real SLURM: preemption, requeueing, a job killed hard, two nodes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cnnexp.config import ConfigError
from cnnexp.sweeps import JobStatus, Ledger
from cnnexp.sweeps.slurm import SlurmLauncher, SlurmSettings, _shape
from cnnexp.sweeps.view import View
from tests.conftest import ROOT
from tests.sweeps.slurm_cluster import cluster, missing

SWEEP = (
    *(sys.executable, "-m", "cnnexp.train", "-m", "hydra/launcher=slurm", "sweep.name=s"),
    *("hydra.launcher.cpus_per_task=1", "hydra.launcher.poll_s=0.5"),
    *("data=digits", "data.train_size=64", "data.val_size=10", "data.batch_size=16"),
    *("model=lenet5", "backward=direct", "accelerator=cpu", "logger=csv"),
    *("checkpoint.every_n_steps=1", "allow_targets=[tests.sweeps.probes.]"),
)
SLOW = ("+callbacks.w._target_=tests.sweeps.probes.Wait", "+callbacks.w.seconds=0.3")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if why := missing():
        pytest.skip(f"no SLURM here: {why}")
    with ExitStack() as stack:
        # one cluster at a time, whichever of pytest-xdist's workers starts it
        place = Path(tempfile.gettempdir()) / f"cnnexp-slurm-{os.getuid()}.lock"
        fcntl.flock(stack.enter_context(place.open("w")), fcntl.LOCK_EX)
        try:
            env = stack.enter_context(cluster(tmp_path_factory.mktemp("slurm")))
        except RuntimeError as error:  # a container may forbid what the daemons need
            pytest.skip(f"no SLURM here: {error}")
        yield {**env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def _ask(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.long
def test_a_sweep_survives_a_preemption_a_requeue_and_a_job_killed_hard(
    slurm: dict[str, str], empty_folder: Path
) -> None:
    ledger = Ledger(empty_folder / "outputs" / "sweeps" / "s")
    command = [*SWEEP, *SLOW, "seed=range(6)", "trainer.max_epochs=4"]
    launcher = subprocess.Popen(
        command, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    def under_way() -> list[JobStatus]:
        """The jobs that run and have something to resume from."""
        assert launcher.poll() is None
        entries = ledger.entries()
        return [e for e in entries if e.state == "running" and e.folder.last_checkpoint.exists()]

    _until(lambda: len(under_way()) == 2)
    numbers = _ask(slurm, "squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split()
    _ask(slurm, "scontrol", "requeue", numbers[0])

    _until(lambda: len(under_way()) == 2)
    _ask(slurm, "sbatch", "-p", "high", "-N1", "-o", "/dev/null", "--wrap", "sleep 1")
    _until(lambda: not _ask(slurm, "squeue", "-h", "-p", "high"))

    killed = _until(under_way)[0]
    os.kill(int((ledger.path / killed.id / "claim").read_text().split()[2]), signal.SIGKILL)

    output, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 1, output
    entries = list(ledger.entries())
    assert sorted(e.state for e in entries) == [*["done"] * 5, "failed"], output
    (failed,) = [e for e in entries if e.state == "failed"]
    assert failed.id == killed.id
    assert "is gone from the queue: killed, out of memory, or its node" in failed.status["error"]
    logs = [e.folder.log.read_text(encoding="utf-8") for e in entries]
    assert sum("resuming from" in text for text in logs) >= 2
    assert all(
        text.count("run folder ") == (e is not failed)
        for e, text in zip(entries, logs, strict=True)
    )

    again = subprocess.run(
        [*command, "sweep.retry=failed"], env=slurm, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert [e.state for e in ledger.entries()] == ["done"] * 6
    assert again.stdout.count("is done already") == 5


def test_a_job_of_two_nodes(slurm: dict[str, str], empty_folder: Path) -> None:
    done = subprocess.run(
        [
            *(argument for argument in SWEEP if argument != "accelerator=cpu"),
            *("accelerator=ddp_cpu", "accelerator.devices=1", "accelerator.num_nodes=2"),
            *("trainer.max_epochs=2", "seed=7"),
        ],
        env={**slurm, "MASTER_ADDR": "127.0.0.1"},  # both nodes are this machine
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = Ledger(empty_folder / "outputs" / "sweeps" / "s").entries()
    assert entry.state == "done"
    assert entry.folder.read_result()["epochs"] == 2
    text = entry.folder.log.read_text(encoding="utf-8")
    assert text.count("epoch 2/2") == 1


def test_where_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"there is no sbatch here; start it on a login node"):
        SlurmLauncher(Ledger("s"), SlurmSettings(), View())


@pytest.mark.parametrize(
    ("accelerator", "gpus", "shape"),
    [
        ({"name": "cpu", "devices": 1}, "auto", (1, 1, 0)),
        ({"name": "gpu", "devices": 1}, "auto", (1, 1, 1)),
        ({"name": "auto", "devices": 1}, 1, (1, 1, 1)),
        ({"name": "ddp", "devices": 4, "num_nodes": 2}, "auto", (2, 4, 4)),
        ({"name": "ddp", "devices": "auto"}, 8, (1, 8, 8)),
        ({"name": "ddp_cpu", "devices": 2}, "auto", (1, 2, 0)),
    ],
)
def test_what_a_job_asks_the_cluster_for(
    accelerator: dict[str, Any], gpus: int | str, shape: tuple[int, int, int]
) -> None:
    settings = SlurmSettings(gpus_per_node=gpus)
    assert _shape({"accelerator": accelerator}, settings) == shape


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"timeout_min=0: must be a whole number, at least 1"):
        SlurmSettings(timeout_min=0)
    with pytest.raises(
        ConfigError, match=r"launcher\.mem_gb=16GB: must be a number above 0, or null"
    ):
        SlurmSettings(mem_gb="16GB")  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ConfigError, match=r"hydra\.launcher\.poll_s=None: must be a number above 0$"
    ):
        SlurmSettings(poll_s=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"gpus_per_node=all: must be auto or a whole number"):
        SlurmSettings(gpus_per_node="all")
    with pytest.raises(ConfigError, match=r"accelerator=ddp: set accelerator\.devices to the GPUs"):
        _shape({"accelerator": {"name": "ddp", "devices": "auto"}}, SlurmSettings())
