"""An experiment of one's own from a built wheel, in an empty folder: all of it works, a mistake is a line.

python -m pytest -m long tests/test_wheel.py        # some three minutes
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.long

SHORT = (
    *("data.train_size=64", "data.val_size=20", "data.batch_size=16", "trainer.max_epochs=1"),
    *("accelerator=cpu", "backward=direct", "logger=csv", "diagnostics=off"),
)
TRAIN = ("-m", "cnnexp.train", "model=lenet5")
DIGITS = (*TRAIN, "data=digits", *SHORT)
FOLDS = (*(each for each in DIGITS if "val_size" not in each), "data.folds=3")
TABLE = (*TRAIN, "data=csv", "data.file=mine.csv", "data.image_size=16", *SHORT)


class Try(NamedTuple):
    """A command, and a part of what it says: on its output, or of the one line of its mistake."""

    command: Sequence[str]
    said: str
    package: str = ""  # which it needs; or, of a mistake, which must not be there


WORKS: dict[str, Try] = {
    "weights of a run": Try(
        (*DIGITS, "init_from=first", "parameters.frozen=[features.0]"), "first"
    ),
    "another loss": Try((*DIGITS, "loss=focal", "loss.class_weights=balanced"), "run folder"),
    "more metrics": Try((*DIGITS, "metrics=[f1,calibration_error]"), "run folder"),
    "no logger": Try((*DIGITS[:-2], "diagnostics=off", "logger=none"), "run folder"),
    "mlflow": Try((*DIGITS[:-2], "diagnostics=off", "logger=mlflow"), "run folder", "mlflow"),
    "wandb": Try((*DIGITS[:-2], "diagnostics=off", "logger=wandb"), "run folder", "wandb"),
    "a learning rate": Try(
        ("-m", "cnnexp.lr_find", *DIGITS[2:], "--from=1e-3", "--steps=30"), "optimizer.lr="
    ),
    "a batch size": Try((*DIGITS, "data.batch_size=auto"), "data.batch_size auto: "),
    "debug": Try((*DIGITS, "debug=limit"), "outputs/debug"),
    "a fold": Try(
        (*FOLDS, "data.fold=1"),
        "run folder",
    ),
    "per-sample gradients": Try(
        (
            "-c",
            "import torch; from torch import nn; from cnnexp.nn import per_sample_gradients as g; "
            "n = nn.Linear(3, 2); x, y = torch.ones(4, 3), torch.zeros(4).long(); "
            "print(g(n, nn.CrossEntropyLoss(), (x, y))['weight'].shape)",
        ),
        "torch.Size([4, 2, 3])",
    ),
    "from Python": Try(
        (
            "-c",
            "import cnnexp; run = cnnexp.load_run('first'); print(type(run.network).__name__, "
            "run.dataset)",
        ),
        "LeNet5 digits",
    ),
    "a table of pictures": Try(TABLE, "run folder"),
    "a search": Try(
        (
            *(*TRAIN, "-m", "data=digits", *SHORT, "hydra/sweeper=optuna", "sweep.name=s"),
            *("hydra.sweeper.n_trials=2", "optimizer.lr=tag(log,interval(1e-4,1e-1))"),
        ),
        "optimizer.lr",
        "optuna",
    ),
    "help": Try((*TRAIN, "--help"), "steps_per_call"),
}
MISTAKES: dict[str, Try] = {
    "weights that are missing": Try((*DIGITS, "init_from=none.safetensors"), "none.safetensors"),
    "classes for numbers": Try((*DIGITS, "loss=mse"), "loss"),
    "an unknown metric": Try((*DIGITS, "metrics=f2"), "known: auroc"),
    "an absent tracker": Try((*DIGITS[:-2], "logger=mlflow"), "cnnexp[mlflow]", "mlflow"),
    "Lightning's finder": Try(
        (*DIGITS, "+callbacks.x._target_=lightning.pytorch.tuner.Tuner"), "cnnexp.lr_find"
    ),
    "an unknown debug": Try((*DIGITS, "debug=limitt"), "Did you mean 'limit'"),
    "a fold too many": Try(
        (*FOLDS, "data.fold=3"),
        "data.fold=3",
    ),
    "an unknown column": Try((*TABLE, "data.labels=species"), "species"),
    "a metric that is not measured": Try((*DIGITS, "checkpoint.monitor=val/f1"), "val/f1"),
}


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with pictures and a run, and the environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed")
    site, work = folder / "site", folder / "work"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True, timeout=120)
    work.mkdir()
    lines, random = ["file,kind"], np.random.default_rng(0)
    for k in range(130):
        pixels = random.integers(0, 120, (16, 16), dtype=np.uint8)
        pixels[:, 8 * (k % 2) : 8 * (k % 2) + 8] += 120
        Image.fromarray(pixels).save(work / f"{k}.png")
        lines.append(f"{k}.png,{('left', 'right')[k % 2]}")
    (work / "mine.csv").write_text("\n".join(lines), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = _tried((*DIGITS, "name=first"), work, environment)
    assert done.returncode == 0, done.stderr
    return work, environment


def _tried(
    command: Sequence[str], work: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip


@pytest.mark.parametrize("what", WORKS)
def test_it_works(what: str, place: tuple[Path, dict[str, str]]) -> None:
    command, said, package = WORKS[what]
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"no {package} here")
    done = _tried(command, *place)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_a_line_and_leaves_nothing(
    what: str, place: tuple[Path, dict[str, str]]
) -> None:
    command, said, package = MISTAKES[what]
    if package and importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    before = sorted(place[0].rglob("*"))
    done = _tried(command, *place)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(place[0].rglob("*")) == before


def test_the_runs_that_were_made_are_whole(place: tuple[Path, dict[str, str]]) -> None:
    results = [*place[0].glob("outputs/*/*/*/result.json")]
    assert results
    assert {json.loads(each.read_text())["status"] for each in results} == {"done"}
