"""Every file under conf/ of a group that changes the training, found by itself, trains."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from cnnexp.config import Composer, conf_dir, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.runs import RunFolder
from cnnexp.training import run_training

GROUPS = ("backward", "model", "optimizer", "regularization", "scheduler")
CHOICES = [
    f"{group}={file.stem}"
    for group in GROUPS
    for file in sorted((conf_dir() / group).glob("*.yaml"))
]
CHOICES += ["model.init=lsuv"]
SMALL = [
    "data=digits",
    "data.train_size=160",
    "data.val_size=40",
    "data.batch_size=64",
    "model.channels=[4,8]",
    "backward=native",
    "accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "~logger",
]


@pytest.mark.parametrize("choice", CHOICES)
def test_it_trains_two_epochs(choice: str, empty_folder: Path) -> None:
    overrides = [o for o in SMALL if not (choice.startswith("model=") and o.startswith("model."))]
    config = plain_config(Composer("train").compose([*overrides, choice]))
    job = build_job(config)
    check_job(job)
    folder = empty_folder / "run"
    folder.mkdir()
    result = run_training(job, RunFolder(folder))
    assert result["epochs"] == 2
    assert result["steps"] == (2 if choice == "optimizer=gd" else 6)
    assert math.isfinite(result["test/loss"])
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["value"]) for row in rows if row["name"] == "train/loss_step"]
    assert len(losses) == result["steps"]
    assert all(math.isfinite(loss) for loss in losses)
    assert len(set(losses)) == len(losses)  # it moves
