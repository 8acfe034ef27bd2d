"""Every file under conf/, found by itself, trains."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from cnnexp.config import Composer, conf_dir, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.runs import RunFolder
from cnnexp.training import run_training
from tests.config.own_files import NEED_FILES, settings_with_files
from tests.config.test_compose import NEED_GPU
from tests.data.official_files import WRITERS
from tests.data.picture_files import write_pictures

NOT_OF_A_RUN = ("hydra", "sweep")  # groups that say nothing of a training
CHOICES = [
    f"{group.name}={file.stem}"
    for group in sorted(conf_dir().iterdir())
    if group.is_dir() and group.name not in NOT_OF_A_RUN
    for file in sorted(group.glob("*.yaml"))
]
CHOICES += ["model.init=lsuv"]
WITHOUT_CHANNELS = (
    "private",
    "private_scatter",
    "fine_tune",
)  # recipes with a network whose channels are fixed
SMALL = {
    "data": "digits",
    "data.train_size": "160",
    "data.val_size": "40",
    "data.batch_size": "64",
    "model.channels": "[4,8]",
    "backward": "native",
    "accelerator": "cpu",
    "trainer.max_epochs": "2",
    "trainer.log_every_n_steps": "1",
    "logger": "csv",  # the pictures of TensorBoard would take most of the time
}


def _overrides(choice: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The small training with ``choice``, whose files, if it needs any, are written to ``folder``."""
    group, _, name = choice.partition("=")
    small = {key: value for key, value in SMALL.items() if key != group}
    if choice == "backward=reference":  # by definition, and so slow
        small |= {"data.train_size": "64", "data.batch_size": "32", "data.val_size": "10"}
        small |= {"data.eval_batch_size": "20", "+trainer.limit_test_batches": "1"}
    if group == "model" or name in WITHOUT_CHANNELS:
        del small["model.channels"]
    if choice == "data=image_folder":
        write_pictures(folder / "pictures", count=10)
        small |= {"data.folder": "pictures", "data.image_size": "12"}
    elif name in NEED_FILES:
        small |= settings_with_files(name, folder)
    elif name in WRITERS:
        WRITERS[name](folder, monkeypatch)
        small |= {"data.root": str(folder), "data.download": "false"}
        small |= {"data.split": "letters"} if name == "emnist" else {}
    elif name in ("dp_sgd", "private", "private_scatter"):
        small |= {"privacy.secure_noise": "false"}  # the same noise each time
    elif choice == "data=mnist":
        small |= {"data.download": "false"}  # on the digits, which stand in for it
        del small["data.train_size"], small["data.val_size"]
    if name in ("image_folder", "fine_tune", *WRITERS):  # few images
        small |= {"data.train_size": "0.9", "data.val_size": "0.2", "data.batch_size": "5"}
    small.pop(group, None)
    return [*(f"{key}={value}" for key, value in small.items()), choice]


@pytest.mark.parametrize("choice", CHOICES)
def test_it_trains_two_epochs(
    choice: str, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if choice == "accelerator=ddp_cpu":
        pytest.skip("several processes: tests/training/test_ranks.py, tests/test_train_ranks.py")
    if choice in NEED_GPU and not torch.cuda.is_available():
        pytest.skip("there is no such GPU here")
    if choice in ("logger=wandb", "logger=mlflow"):
        pytest.skip("their packages have warnings of their own: tests/training/test_trackers.py")
    overrides = _overrides(choice, empty_folder, monkeypatch)
    job = build_job(plain_config(Composer("train").compose(overrides)))
    check_job(job)
    folder = empty_folder / "run"
    folder.mkdir()
    result = run_training(job, RunFolder(folder))
    if choice in ("debug=fast", "debug=overfit", "debug=profile"):  # of a length of their own
        assert result["debug"]["name"] == choice.partition("=")[2]
        assert result["steps"] >= 1
        return
    assert result["epochs"] == 2
    steps = 1 if choice == "optimizer=gd" else -(-len(job.data.train) // job.data.batch_size)
    assert result["steps"] == 2 * steps
    assert math.isfinite(result["test/loss"])
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["value"]) for row in rows if row["name"] == "train/loss_step"]
    assert len(losses) == result["steps"]
    assert all(math.isfinite(loss) for loss in losses)
    assert len(set(losses)) == len(losses)  # it moves
