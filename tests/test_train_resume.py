"""``python -m cnnexp.train run=…``: resuming a run, one's own or a stranger's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from cnnexp import train
from cnnexp.runs import RunFolder
from tests.conftest import Command
from tests.test_train import SHORT, run_folders

RESUMABLE = (*SHORT, "trainer.max_epochs=3", "scheduler=onecycle", "backward=direct")
# a callback of the user's own that stops the second epoch by the signal of a cluster
STOPPER = """
import os, signal
import lightning as L
class Stop(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.fixture
def stopped(command: Command, empty_folder: Path) -> RunFolder:
    (empty_folder / "mylab.py").write_text(STOPPER)
    done = command(
        "cnnexp.train", *RESUMABLE, "allow_targets=[mylab.]", "+callbacks.s._target_=mylab.Stop",
        "+callbacks.s.step=15", PYTHONPATH=str(empty_folder),
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    assert "stopped by SIGUSR1; status and checkpoints are in outputs/train/lenet5/" in done.stdout
    (run,) = run_folders(empty_folder)
    assert run.read_status()["state"] == "stopped"
    return run


def test_run_latest_goes_on_with_what_was_stopped_and_then_makes_it_no_longer(
    command: Command, empty_folder: Path, stopped: RunFolder
) -> None:
    allowed = {"PYTHONPATH": str(empty_folder), "CNNEXP_ALLOW_TARGETS": "mylab."}
    refused = command("cnnexp.train", "run=latest", PYTHONPATH=str(empty_folder))
    assert refused.returncode == 2  # the folder's own config widens nothing
    assert "callbacks.s._target_=mylab.Stop is not allowed" in refused.stderr
    other = command("cnnexp.train", f"run={stopped}", "optimizer.lr=0.1", **allowed)
    assert other.returncode == 2
    assert "optimizer.lr was 0.001 and cannot become 0.1 in the middle of a run" in other.stderr
    done = command("cnnexp.train", "run=latest", **allowed)
    assert done.returncode == 0, done.stderr
    assert "last.ckpt: epoch 2, step 15" in done.stdout
    assert stopped.read_result()["epochs"] == 3
    assert len(run_folders(empty_folder)) == 1
    whole = command("cnnexp.train", *RESUMABLE, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    one, two = stopped.read_result(), RunFolder(empty_folder / "whole").read_result()
    for key in ("seconds_fit", "images_per_second", "config_hash"):
        del one[key], two[key]
    assert one == two
    again = command("cnnexp.train", f"run={stopped}", **allowed)
    assert again.returncode == 2
    assert "is done already; trainer.max_epochs=… makes it longer" in again.stderr
    longer = command("cnnexp.train", f"run={stopped}", "trainer.max_epochs=5", **allowed)
    assert longer.returncode == 2
    assert "is laid over the 3 epochs that the run began with" in longer.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hydra: {callbacks: {x: {_target_: os.system}}}", "holds 'hydra', which no run's config"),
        ("defaults: [_self_]", "holds 'defaults', which no run's config does"),
        ("name: ${oc.env:HOME}", "name holds an interpolation, which no run's config does"),
        ("a: &x [1]\nb: [*x, *x]", "holds an alias, which no run's config does"),
        ("a: [", "cannot be read: while parsing"),
        ("just text", "is not a run's config"),
        ("a: !!python/object/apply:os.system ['touch hacked']", "cannot be read: could not determ"),
        ("optimizer: {_target_: os.system, command: touch hacked}", "_target_=os.system is not al"),
    ],
)
def test_the_config_of_a_strangers_run_runs_nothing(
    empty_folder: Path,
    content: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = RunFolder(empty_folder / "theirs")
    folder.path.mkdir()
    folder.write_status("stopped", epoch=1, step=1)
    if content.startswith("optimizer"):
        monkeypatch.setattr(sys, "argv", ["cnnexp.train", *SHORT, "--cfg", "job"])
        with pytest.raises(SystemExit):
            train.main()
        ours = yaml.safe_load(capsys.readouterr().out)
        ours["name"] = "lenet5"
        content = yaml.safe_dump({**ours, **yaml.safe_load(content)}).replace("${seed}", "0")
        content = content.replace("${name}", "lenet5")
    folder.config.write_text(content)
    monkeypatch.setattr(sys, "argv", ["cnnexp.train", "run=theirs"])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in empty_folder.rglob("*")) == [
        "config.yaml",
        "status.json",
        "theirs",
    ]


def test_run_names_a_folder_with_a_run(command: Command, empty_folder: Path) -> None:
    nowhere = command("cnnexp.train", "run=nowhere")
    assert nowhere.returncode == 2
    assert "run=nowhere: holds no run (no config.yaml and status.json)" in nowhere.stderr
    latest = command("cnnexp.train", "run=latest")
    assert latest.returncode == 2
    assert "run=latest: there is no run in outputs" in latest.stderr
