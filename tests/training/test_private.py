"""Private trainings: their bits without noise, what they spend, that no step goes uncounted."""

from __future__ import annotations

import math
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.models import SeedCNN
from cnnexp.nn import replace_layers
from cnnexp.privacy import (
    Accountant,
    Clipping,
    Mechanism,
    PrivacyError,
    PrivacySettings,
    PrivateGradient,
    SeededNoise,
)
from cnnexp.regularization import L2, RandomShift
from cnnexp.runs import SpentSteps
from cnnexp.training import (
    ALONE,
    Classifier,
    TrainingJob,
    TrainingStopped,
    quiet_lightning,
    run_training,
)
from cnnexp.training.assemble import make_classifier
from cnnexp.training.privacy_account import privacy_account
from cnnexp.training.private import PrivateClassifier
from cnnexp.training.seeds import seed_layers
from tests.training.resumable import new_folder, same

TRAINED, BATCH = 192, 48
EPOCH = TRAINED // BATCH  # steps


def private_job(*callbacks: Callback, epochs: int = 2, **settings: Any) -> TrainingJob:
    """A tiny network on the digits; noise and batches by the seed, so that it can be compared."""
    privacy = PrivacySettings(
        "dp_sgd", **{"noise_multiplier": 1.0, "secure_noise": False, **settings}
    )
    return TrainingJob(
        data=ImageDataModule(
            load_digits,
            batch_size=BATCH,
            val_size=40,
            train_size=TRAINED,
            sampling="poisson",
            secret=privacy.secure_noise,
        ),
        network=lambda images: SeedCNN(channels=[4, 8]),
        optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9),
        regularizers=[L2(1e-4), RandomShift(2)],
        backward="fused",
        trainer={"max_epochs": epochs, "log_every_n_steps": 1, "accelerator": "cpu"},
        callbacks=lambda: [*callbacks],
        privacy=privacy,
        config={"seed": 0},
    )


class _Fails(Callback):
    """A crash in the middle of step ``nth``, after it was made."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def on_train_batch_end(self, *_arguments: Any, **_options: Any) -> None:
        self._left -= 1
        if self._left == 0:
            raise OSError("the disk is gone")


class _Stops(Callback):
    """A stop while the test is made."""

    def on_test_batch_start(self, *_arguments: Any, **_options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def _fit(make: Any, steps: int = 6) -> dict[str, Tensor]:
    data = ImageDataModule(load_digits, batch_size=32, val_size=0, train_size=160)
    torch.manual_seed(0)
    module = make(
        SeedCNN(channels=[4, 8]).train(),
        num_classes=10,
        mean=(0.5,),
        std=(0.5,),
        optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        regularizers=[L2(1e-3)],
        seed=0,
    )
    replace_layers(module.network, "fused", quiet=True)
    parts = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(parts, False)
    with quiet_lightning():
        trainer = L.Trainer(max_steps=steps, accelerator="cpu", limit_val_batches=0, **quiet)
        trainer.fit(module, datamodule=data)
    return {name: p.detach() for name, p in module.network.named_parameters()}


def test_without_limit_and_noise_it_is_plain_sgd_to_the_bit() -> None:
    gradient = PrivateGradient(
        Clipping(math.inf),
        noise_multiplier=0.0,
        expected=32.0,
        noise=SeededNoise(0),
    )
    spent: list[int] = []
    private = partial(PrivateClassifier, gradient=gradient, spend=lambda: spent.append(1))
    assert same(_fit(private), _fit(Classifier))
    assert len(spent) == 6


def test_copies_that_nothing_changes_are_one_image() -> None:
    def gradient() -> PrivateGradient:
        return PrivateGradient(
            Clipping(0.1),
            noise_multiplier=0.0,
            expected=32.0,
            noise=SeededNoise(0),
        )

    one = _fit(partial(PrivateClassifier, gradient=gradient(), spend=lambda: None))
    three = _fit(partial(PrivateClassifier, gradient=gradient(), spend=lambda: None, copies=3))
    for name, weights in one.items():
        assert torch.allclose(three[name], weights, atol=1e-5), name


def test_much_noise_gives_chance(tmp_path: Path) -> None:
    result = run_training(private_job(noise_multiplier=1000.0), new_folder(tmp_path / "run"))
    assert result["test/acc"] < 0.25


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic"])
def test_what_is_spent_is_what_the_library_says_of_the_steps_taken(
    clipping: str, tmp_path: Path
) -> None:
    folder = new_folder(tmp_path / "run")
    result = run_training(private_job(clipping=clipping, augmentations=2), folder)
    assert result["privacy/steps"] == result["steps"] == 2 * EPOCH
    taken = [(Mechanism(1.0, BATCH / TRAINED), 2 * EPOCH)]
    for kind, name in (("pld", "privacy/epsilon"), ("rdp", "privacy/epsilon_rdp")):
        assert result[name] == Accountant(kind).epsilon(taken, 1e-5)
    assert result["privacy/epsilon"] < result["privacy/epsilon_rdp"]
    about = ("delta", "accountant", "adjacency", "sampler", "sampling_rate", "noise_multiplier")
    assert [result[f"privacy/{name}"] for name in about] == [
        1e-5,
        "pld",
        "add_or_remove_one",
        "poisson",
        BATCH / TRAINED,
        1.0,
    ]
    logged = [row["value"] for row in folder.read_metrics() if row["name"] == "privacy/epsilon"]
    assert len(logged) == 2
    assert logged[0] < logged[1] == pytest.approx(result["privacy/epsilon"], rel=1e-6)


def test_the_budget_chooses_the_noise_and_is_not_exceeded(tmp_path: Path) -> None:
    job = private_job(epsilon=2.0, noise_multiplier=None)
    result = run_training(job, new_folder(tmp_path / "run"))
    assert result["privacy/steps"] == 2 * EPOCH
    assert 1.9 < result["privacy/epsilon"] <= 2.0


def test_the_training_ends_with_the_budget(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    budget = Accountant("pld").epsilon([(Mechanism(1.0, BATCH / TRAINED), EPOCH + 1)], 1e-5)
    job = private_job(epsilon=budget * 1.0001, epochs=5)
    folder = new_folder(tmp_path / "run")
    result = run_training(job, folder)
    assert result["privacy/steps"] == result["steps"] == EPOCH + 1
    assert result["privacy/epsilon"] <= budget * 1.0001
    assert f"is spent after {EPOCH + 1} steps, so the training ends here" in caplog.text
    folder.result.unlink()
    with pytest.raises(PrivacyError, match=f"{EPOCH + 1} steps are spent, and ε = "):
        run_training(job, folder, resume=True)


@pytest.mark.parametrize("crash", [2, EPOCH + 2])
def test_steps_of_a_crashed_attempt_are_spent_and_the_resumed_run_has_the_same_bits(
    crash: int, tmp_path: Path
) -> None:
    whole, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "run")
    run_training(private_job(), whole)
    with pytest.raises(OSError, match="the disk is gone"):
        run_training(private_job(_Fails(crash)), folder)
    result = run_training(private_job(), folder, resume=True)
    again = crash - (crash // EPOCH) * EPOCH  # steps since the last checkpoint
    assert result["steps"] == 2 * EPOCH
    assert result["privacy/steps"] == SpentSteps(folder.spent).steps == 2 * EPOCH + again
    assert result["privacy/epsilon"] > whole.read_result()["privacy/epsilon"]
    one, other = (torch.load(f.last_checkpoint, weights_only=True) for f in (folder, whole))
    assert same(one["state_dict"], other["state_dict"])


def test_a_run_that_is_made_longer_keeps_its_noise(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    first = run_training(private_job(epsilon=2.0, noise_multiplier=None), folder)
    with pytest.raises(PrivacyError, match=r"privacy.epsilon=2.0: 8 steps are spent"):
        run_training(private_job(epsilon=2.0, noise_multiplier=None, epochs=3), folder, resume=True)
    longer = private_job(epsilon=3.0, noise_multiplier=None, epochs=3)
    second = run_training(longer, folder, resume=True)
    assert second["privacy/noise_multiplier"] == first["privacy/noise_multiplier"]
    assert second["privacy/steps"] == 3 * EPOCH


def test_secret_noise_is_another_in_each_run(tmp_path: Path) -> None:
    weights = []
    for name in ("one", "other"):
        folder = new_folder(tmp_path / name)
        run_training(private_job(secure_noise=True, epochs=1), folder)
        weights.append(torch.load(folder.last_checkpoint, weights_only=True)["state_dict"])
    assert not same(*weights)


def test_a_spent_budget_does_not_keep_what_is_trained_from_its_test(tmp_path: Path) -> None:
    stop, folder = _Stops(), new_folder(tmp_path / "run")
    budget = {"epsilon": 2.0, "noise_multiplier": None}
    with pytest.raises(TrainingStopped):
        run_training(private_job(stop, **budget), folder)
    result = run_training(private_job(**budget), folder, resume=True)
    assert result["privacy/steps"] == result["steps"] == 2 * EPOCH
    assert result["test/acc"] is not None


@pytest.mark.parametrize("secret", [False, True])
def test_nobody_knows_what_secret_trainings_draw(secret: bool) -> None:
    drawn, images = [], torch.rand(16, 1, 8, 8)
    for _ in range(2):
        job = private_job(secure_noise=secret)
        torch.manual_seed(job.seed)
        classifier = make_classifier(
            job, job.data.images, account=privacy_account(job, SpentSteps(Path(os.devnull)))
        )
        seed_layers(job, ALONE)
        labels = torch.zeros(16, dtype=torch.int64)
        drawn.append([classifier.vary(images, labels, 0)[0], torch.rand(16)])
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one, other) is not secret


def test_a_training_without_end_needs_its_noise_given(tmp_path: Path) -> None:
    job = private_job(epsilon=2.0, noise_multiplier=None, epochs=-1)
    with pytest.raises(PrivacyError, match="this training has no end; set"):
        run_training(job, new_folder(tmp_path / "run"))


def test_shuffled_batches_are_not_accounted_as_poisson_samples(tmp_path: Path) -> None:
    job = private_job()
    job.data = ImageDataModule(load_digits, batch_size=BATCH, val_size=40, train_size=TRAINED)
    with pytest.raises(PrivacyError, match="shuffled batches are less private than the ε says"):
        run_training(job, new_folder(tmp_path / "run"))
