"""Networks that were trained by real runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.runs import RunFolder
from cnnexp.training import run_training

DIGITS = (
    *("data=digits", "model=seed_cnn", "model.channels=[8,16,16]", "trainer.max_epochs=3"),
    *("regularization=ema", "scheduler=onecycle", "optimizer.lr=5e-3", "accelerator=cpu"),
)


def train(folder: Path, *overrides: str) -> RunFolder:
    config = plain_config(Composer("train").compose([*overrides, "logger=csv"]))
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    run_training(build_job(config), run)
    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Of the bundled digits, with an average of the weights."""
    return train(tmp_path_factory.mktemp("digits") / "run", *DIGITS)


@pytest.fixture(scope="session")
def mnist_run(tmp_path_factory: pytest.TempPathFactory, mnist_root: Path) -> RunFolder:
    """Of 10,000 images of MNIST."""
    return train(
        tmp_path_factory.mktemp("mnist") / "run",
        *("data=mnist", f"data.root={mnist_root}", "data.train_size=10000", "data.val_size=500"),
        *("trainer.max_epochs=2", "scheduler=onecycle", "optimizer.lr=3e-3", "accelerator=cpu"),
    )


@pytest.fixture
def copied(digits_run: RunFolder, empty_folder: Path) -> Callable[[], RunFolder]:
    """A copy of the digits' run in the empty folder, to be damaged."""

    def copy() -> RunFolder:
        shutil.copytree(digits_run.path, empty_folder / "run")
        return RunFolder(Path("run"))

    return copy
