"""Several processes train the network that one would, and stop and resume together."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.models import SeedCNN
from cnnexp.regularization import (
    L2,
    CutMix,
    Draws,
    MixUp,
    RandomElastic,
    RandomShift,
    Regularizer,
)
from cnnexp.runs import RunFolder
from cnnexp.training import OnNaN, TrainingJob, read_checkpoint
from cnnexp.training.callbacks import ExponentialAverage
from tests.training.processes import train
from tests.training.resumable import STEPS, assert_same_run, small_job

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo"
)


def _sgd(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)


def _adam(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), 3e-3)


def _network(images: Any) -> torch.nn.Module:
    return SeedCNN(channels=[4, 8])  # without dropout, whose masks are each rank's own


WAYS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": _sgd, "trainer": {"precision": "32-true"}},
    "adamw, augmented and mixed": {
        "optimizer": _adam,
        "regularizers": [
            *(RandomShift(2), RandomElastic(8.0, 3.0)),
            *(MixUp(0.4), CutMix(1.0)),
            L2(1e-3),
        ],
        "trainer": {"precision": "64-true"},
    },
    "all images a step": {
        "full_batch": True,
        "optimizer": _sgd,
        "trainer": {"precision": "64-true"},
    },
    "accumulated": {
        "optimizer": _sgd,
        "trainer": {"precision": "64-true", "accumulate_grad_batches": 2},
    },
}


def _job(name: str, rank: int) -> TrainingJob:
    # 171 images: the last batch of 11 cannot be cut into equal parts
    data = ImageDataModule(load_digits, batch_size=32, val_size=44, train_size=171)
    way = {"regularizers": [], **WAYS[name]}
    trainer = {"max_epochs": 2, "log_every_n_steps": 1, "accelerator": "cpu", **way.pop("trainer")}
    return small_job(data=data, network=_network, scheduler=None, trainer=trainer, **way)


@pytest.mark.parametrize("name", WAYS)
def test_two_processes_train_the_network_that_one_trains(name: str, tmp_path: Path) -> None:
    alone, two = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "two")
    assert train(partial(_job, name), alone, 1) == [0]
    assert train(partial(_job, name), two, 2) == [0, 0]
    one, other = (read_checkpoint(f.last_checkpoint)["state_dict"] for f in (alone, two))
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=1e-6, msg=key)
    results = [f.read_result() for f in (alone, two)]
    for key in ("train/loss", "val/loss", "val/acc", "test/loss", "test/acc", "steps", "epochs"):
        assert results[0][key] == pytest.approx(results[1][key], abs=1e-6), key
    steps = [[r for r in f.read_metrics() if r["name"] == "train/loss_step"] for f in (alone, two)]
    assert [r["value"] for r in steps[0]] == pytest.approx([r["value"] for r in steps[1]], abs=1e-6)


class _SignalInOne(Callback):
    """Send one rank's process a signal, after so many batches."""

    def __init__(self, rank: int, batches: int) -> None:
        self._rank, self._left = rank, batches

    def on_train_batch_end(self, trainer: Any, *arguments: Any, **options: Any) -> None:
        self._left -= 1
        if self._left == 0 and trainer.global_rank == self._rank:
            os.kill(os.getpid(), signal.SIGTERM)


def _resumable(signalled: int | None, rank: int) -> TrainingJob:
    signals = [] if signalled is None else [_SignalInOne(signalled, STEPS + 2)]
    return small_job(callbacks=lambda: [*signals, ExponentialAverage(0.9)])


def test_a_signal_to_one_rank_stops_all_and_they_resume_to_the_same_bits(tmp_path: Path) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    assert train(partial(_resumable, None), whole) == [0, 0]
    assert train(partial(_resumable, 1), folder) == [143, 143]
    assert folder.read_status()["state"] == "stopped"
    where = read_checkpoint(folder.last_checkpoint)["cnnexp"]
    assert STEPS + 2 <= where["step"] <= STEPS + 4
    assert len(where["random"]) == 2
    assert train(partial(_resumable, None), folder, resume=True) == [0, 0]
    assert_same_run(folder, whole)


class _BadPart(Regularizer):
    """Makes the second rank's part of one batch NaN."""

    def __init__(self, rank: int) -> None:
        self._rank, self._batches = rank, 0

    def images(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        self._batches += 1
        return images * float("nan") if (self._rank, self._batches) == (1, STEPS + 2) else images


def _with_bad_part(policy: OnNaN, rank: int) -> TrainingJob:
    basic = DiagnosticsSettings("basic", 4)  # full makes a batch twice
    regularizers = [_BadPart(rank), L2(1e-4)]
    return small_job(regularizers=regularizers, on_nan=policy, diagnostics=basic)


def test_what_is_not_finite_on_one_rank_is_left_out_by_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train(partial(_with_bad_part, "skip"), folder) == [0, 0]
    assert folder.read_result()["steps_skipped"] == 1
    assert (
        read_checkpoint(folder.last_checkpoint)["state_dict"]["network.classifier.weight"]
        .isfinite()
        .all()
    )


def test_what_is_not_finite_on_one_rank_ends_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train(partial(_with_bad_part, "stop"), folder) == [1, 1]
    assert folder.read_status()["state"] == "failed"
    assert "step 8 (epoch 2, batch 2): the loss is nan" in folder.read_status()["error"]
    found = json.loads(folder.non_finite.read_text())
    assert len(found["images"]) == 32  # of all ranks
