"""Run folders that cnnexp 0.1.0 wrote can be resumed, to the bits of a run without a stop."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from cnnexp.runs import RunFolder
from tests.conftest import Command
from tests.training.resumable import assert_same_run

OLD = Path(__file__).parent / "old_runs"
# as old_runs/README.md has it
OVERRIDES = (
    *("data=digits", "data.train_size=96", "data.val_size=32", "data.batch_size=16"),
    *("model.channels=[2,4]", "regularization=[l2,mixup,random_shift,dropout,ema]"),
    *("accelerator=cpu", "backward=direct", "trainer.log_every_n_steps=1"),
)


def _rounds_alike(old: RunFolder, whole: RunFolder) -> bool:
    """Whether this machine gives the numbers of the one that began the run."""
    later = ("perf/", "test/")
    rows = [[r for r in f.read_metrics() if not r["name"].startswith(later)] for f in (old, whole)]
    return repr(rows[0]) == repr(rows[1][: len(rows[0])])


@pytest.mark.parametrize("name", ["stopped", "done"])
def test_a_run_of_0_1_0_is_resumed(name: str, command: Command, empty_folder: Path) -> None:
    shutil.copytree(OLD / name, empty_folder / name)
    old, whole = RunFolder(OLD / name), RunFolder(empty_folder / "whole")
    assert old.read_status()["state"] == name
    for file in (old.last_checkpoint, old.best_checkpoint):
        assert torch.load(file, weights_only=True)["state_dict"]
    uninterrupted = command(
        "cnnexp.train", *OVERRIDES, "trainer.max_epochs=2", "name=old", "hydra.run.dir=whole"
    )
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    longer = ["trainer.max_epochs=2"] if name == "done" else []
    resumed = command("cnnexp.train", f"run={name}", *longer)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from" in resumed.stdout
    folder = RunFolder(empty_folder / name)
    if _rounds_alike(old, whole):
        assert_same_run(folder, whole)
    else:  # another processor: its rounding is not that of the run's first part
        losses = [f.read_result()["test/loss"] for f in (folder, whole)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-2)
