"""A loss, a metric and arrays of the user's own, in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Command

MODULE = '''
import torch
from torch import nn
from torchmetrics import Metric


class Quartic(nn.Module):
    """The mean of the fourth powers of the errors."""

    targets = "numbers"

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, outputs, numbers):
        return (self.scale * (outputs - numbers)).pow(4).mean()


class Worst(Metric):
    """The greatest error."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("worst", torch.zeros(()), dist_reduce_fx="max")

    def update(self, preds, target):
        self.worst = torch.maximum(self.worst, (preds - target).abs().max())

    def compute(self):
        return self.worst
'''
TRAIN = (
    *("cnnexp.train", "data=arrays", "data.file=mine.npz", "model=tiny", "model.channels=[4,4]"),
    *(
        "trainer.max_epochs=2",
        "accelerator=cpu",
        "backward=direct",
        "logger=csv",
        "allow_targets=[mylab.]",
    ),
    *("loss._target_=mylab.Quartic", "+metrics.worst_error._target_=mylab.Worst"),
)


@pytest.fixture
def own(empty_folder: Path) -> Path:
    (empty_folder / "mylab.py").write_text(MODULE)
    images = np.random.default_rng(0).random((120, 8, 12, 3)).astype("float32")
    np.savez(empty_folder / "mine.npz", images=images, labels=images.mean((1, 2)))
    return empty_folder


def test_they_train_choose_and_are_reported(command: Command, own: Path) -> None:
    chosen = ("checkpoint.monitor=val/worst_error", "hydra.run.dir=run", "data.names=[r,g,b]")
    done = command(*TRAIN, *chosen)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "test/mae 0." in done.stdout
    assert "val/worst_error 0." in done.stdout
    result = json.loads((own / "run/result.json").read_text())
    assert result["test/worst_error"] >= result["test/mae"] > 0
    for name in ("evaluate", "predict"):
        more = ("mine.npz",) if name == "predict" else ()
        used = command(f"cnnexp.{name}", "run=run", *more)
        assert used.returncode in (1, 2)
        assert "gives numbers, not one class an image" in used.stderr


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "checkpoint.monitor=val/acc: must be one of val/mae, val/loss, val/worst_error, numbers have"),
        (("+loss.scal=2",), "loss.scal: mylab.Quartic takes no argument 'scal'. Did you mean 'scale'?"),
        (("data.file=gone.npz",), "there is no file gone.npz; set data.file"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message(
    arguments: tuple[str, ...], message: str, command: Command
) -> None:
    done = command(*TRAIN, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("outputs").exists()
