"""Private trainings by several processes: the weights of one process, noise once, the same secret batches."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.models import SeedCNN
from cnnexp.privacy import PrivacySettings
from cnnexp.regularization import L2, RandomShift
from cnnexp.runs import RunFolder, SpentSteps
from cnnexp.training import TrainingJob, read_checkpoint
from tests.training.processes import train

EPOCH = 6  # steps


class _TellsWeights(Callback):
    """Leave the weights of each rank, at the end of the training, in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        weights = pl_module.network.state_dict()
        torch.save(weights, self._folder / f"rank{trainer.global_rank}.pt")


class _Killed(Callback):
    """An end without a word of one rank, in the middle of step ``nth``, after it was made."""

    def __init__(self, rank: int, nth: int) -> None:
        self._rank, self._left = rank, nth

    def on_train_batch_end(self, trainer: Any, *_arguments: Any, **_options: Any) -> None:
        self._left -= 1
        if self._left == 0 and trainer.global_rank == self._rank:
            os.kill(os.getpid(), signal.SIGKILL)


def _job(
    rank: int,
    *,
    batch: int = 32,
    copies: int = 1,
    secret: bool = False,
    clipping: str = "flat",
    callbacks: tuple[Callback, ...] = (),
) -> TrainingJob:
    del rank
    privacy = PrivacySettings(
        "dp_sgd",
        noise_multiplier=1.0,
        secure_noise=secret,
        augmentations=copies,
        clipping=clipping,
    )
    data = ImageDataModule(
        load_digits,
        batch_size=batch,
        val_size=40,
        train_size=EPOCH * batch,
        sampling="poisson",
        secret=secret,
    )
    return TrainingJob(
        data=data,
        network=lambda images: SeedCNN(channels=[4, 8]),
        optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9),
        regularizers=[L2(1e-4), RandomShift(2)],
        backward="fused",
        trainer={
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "precision": "64-true",
        },
        callbacks=lambda: [*callbacks],
        privacy=privacy,
        config={"seed": 0},
    )


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"copies": 3},
        {"batch": 2},  # most samples leave a rank, or both, without an image
        {"clipping": "per_layer"},
        {"clipping": "automatic"},
    ],
    ids=str,
)
@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_train_the_network_that_one_trains(
    way: dict[str, Any], ranks: int, tmp_path: Path
) -> None:
    if ranks == 3 and way not in ({}, {"batch": 2}):
        pytest.skip("two processes show it")
    alone, together = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "together")
    assert train(partial(_job, **way), alone, 1) == [0]
    assert train(partial(_job, **way), together, ranks) == [0] * ranks
    one, other = (read_checkpoint(f.last_checkpoint)["state_dict"] for f in (alone, together))
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=1e-6, msg=key)
    results = [folder.read_result() for folder in (alone, together)]
    for key in ("privacy/epsilon", "privacy/epsilon_rdp", "privacy/steps", "steps"):
        assert results[0][key] == results[1][key], key
    assert results[1]["privacy/steps"] == 2 * EPOCH
    for key in ("train/loss", "val/loss", "test/acc"):
        assert results[0][key] == pytest.approx(results[1][key], abs=1e-6), key


def test_secret_batches_and_noise_are_the_same_for_all_processes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    make = partial(_job, secret=True, callbacks=(_TellsWeights(tmp_path),))
    assert train(make, folder) == [0, 0]
    one, other = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    for key, value in one.items():
        assert torch.equal(other[key], value), key
    again = RunFolder(tmp_path / "again")
    assert train(make, again) == [0, 0]
    assert any(not torch.equal(v, one[k]) for k, v in torch.load(tmp_path / "rank0.pt").items())


@pytest.mark.parametrize("rank", [0, 1])
def test_steps_of_a_killed_process_are_spent_and_the_resumed_run_ends_as_the_whole(
    rank: int, tmp_path: Path
) -> None:
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    assert train(_job, whole) == [0, 0]
    made = EPOCH + 2
    assert train(partial(_job, callbacks=(_Killed(rank, made),)), killed) != [0, 0]
    spent = SpentSteps(killed.spent).steps
    assert spent >= made  # what the other rank began then is counted, too
    assert train(_job, killed, resume=True) == [0, 0]
    result = killed.read_result()
    # the checkpoint is of the first epoch's end: its second is made again, and counted again
    assert result["privacy/steps"] == spent + EPOCH
    lines = killed.spent.read_text().splitlines()
    assert lines.count(".") == spent + EPOCH
    assert [json.loads(line) for line in lines if line != "."] == [
        {"noise_multiplier": 1.0, "sampling_rate": pytest.approx(1 / EPOCH)}
    ]
    one, other = (read_checkpoint(f.last_checkpoint)["state_dict"] for f in (whole, killed))
    for key, value in one.items():
        assert torch.equal(other[key], value), key
