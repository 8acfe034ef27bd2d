"""Trainings that go wrong for real, each in its way: the verdict names trouble, layer and what to try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.data import ImageDataModule, ImageSet, LabelledImages, load_digits
from cnnexp.diagnostics import DiagnosticsSettings, Thresholds
from cnnexp.models import LeNet5, SeedCNN
from cnnexp.optim import GradientDescent
from cnnexp.regularization import LabelSmoothing
from cnnexp.runs import RunFolder
from cnnexp.training import NonFiniteError, TrainingJob, run_training
from tests.training.resumable import new_folder, small_job

# The shipped demonstrations, on the digits that need no files, with smaller batches and fewer steps.
DIGITS = [
    *("data=digits", "data.train_size=640", "data.val_size=160", "data.batch_size=32"),
    *("backward=native", "accelerator=cpu", "trainer.max_epochs=2", "diagnostics.every=4"),
]


def _experiment(name: str, *overrides: str) -> TrainingJob:
    register_resolvers()
    config = Composer("train").compose([f"experiment={name}", *DIGITS, *overrides])
    return build_job(plain_config(config))


def _verdicts(folder: RunFolder) -> list[dict[str, Any]]:
    found = folder.read_result() or folder.read_status()
    return found.get("health", [])


def _texts(folder: RunFolder) -> list[str]:
    """What TensorBoard's text page says."""
    events = EventAccumulator(str(folder.tensorboard)).Reload()
    return [
        value.tensor_proto.string_val[0].decode() for value in events.Tensors("health/text_summary")
    ]


def test_vanishing_in_the_first_of_twenty_sigmoids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = new_folder(tmp_path / "run")
    run_training(_experiment("vanishing"), folder)
    (verdict,) = _verdicts(folder)
    assert (verdict["trouble"], verdict["layer"], verdict["since"]) == (
        "vanishing",
        "features.0",
        1,
    )
    assert verdict["until"] is None
    assert "of the gradient of linear1 (classifier)" in verdict["evidence"]
    share = float(verdict["evidence"].split()[3])
    assert share < 1e-10
    said = [record.getMessage() for record in caplog.records if "health: v" in record.getMessage()]
    assert len(said) == 2  # when it turned, and at the end
    assert said[0] == said[1] == _texts(folder)[0]
    assert said[0].endswith(
        "try model.activation=relu with model.init=he, or regularization=batch_norm"
    )


def test_it_is_cured_by_relu_he_and_batch_norm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = new_folder(tmp_path / "run")
    run_training(_experiment("vanishing_cured"), folder)
    assert _verdicts(folder) == []
    assert "health: nothing conspicuous in 40 steps" in caplog.text


def test_exploding_is_told_before_the_numbers_end(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(NonFiniteError):
        run_training(_experiment("exploding", "diagnostics.every=1"), folder)
    (verdict,) = _verdicts(folder)
    assert verdict["trouble"] == "exploding"
    assert verdict["layer"].startswith("features.")
    assert folder.read_status()["state"] == "failed"
    assert "exploding" in _texts(folder)[0]
    events = EventAccumulator(str(folder.tensorboard)).Reload()
    assert "gradient_flow" in events.Tags()["images"]


def test_exploding_is_cured_by_clipping(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    run_training(_experiment("exploding_cured", "trainer.max_epochs=4"), folder)
    assert _verdicts(folder) == []


def test_overfitting_on_few_images(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    few = ("data.train_size=100", "data.val_size=600", "trainer.max_epochs=20")
    run_training(_experiment("overfitting", *few), folder)
    (verdict,) = _verdicts(folder)
    assert (verdict["trouble"], verdict["layer"]) == ("overfitting", "")
    assert verdict["suggestion"] == "try regularization=[l2,dropout,random_shift], or more images"


def _job(network: Any, rate: float, epochs: int = 10, **changes: Any) -> TrainingJob:
    settings: dict[str, Any] = {
        "data": ImageDataModule(load_digits, batch_size=32, val_size=44, train_size=640),
        "network": network,
        "optimizer": lambda network: torch.optim.SGD(network.parameters(), rate),
        "scheduler": None,
        "regularizers": [],
        "callbacks": list,
        "diagnostics": DiagnosticsSettings("basic", 5, health=Thresholds(window=20)),
        "trainer": {"max_epochs": epochs, "accelerator": "cpu"},
    }
    return small_job(**settings | changes)


def _relu(images: Any) -> torch.nn.Module:
    return SeedCNN(channels=[4, 8])


def _tanh(images: Any) -> torch.nn.Module:
    return LeNet5()


def _random_labels() -> ImageSet:
    images = load_digits()
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(images.train), generator=generator)
    train = LabelledImages(images.train.images, images.train.labels[shuffled])  # pyright: ignore
    return ImageSet(
        images.name, train, images.test, images.classes, images.mean, images.std, "shuffled"
    )


def _all_at_once(network: torch.nn.Module) -> torch.optim.Optimizer:
    return GradientDescent(network.parameters(), lr=0.06)


def _linear(images: Any) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))


CASES: dict[str, dict[str, Any]] = {
    "dead": {"network": _relu, "rate": 3.0},
    "lr too high": {"network": _tanh, "rate": 2.0},
    "lr too low": {"network": _tanh, "rate": 1e-5},
    "stuck": {
        "network": _tanh,
        "rate": 0.01,
        "data": ImageDataModule(_random_labels, batch_size=32, val_size=44, train_size=640),
    },
    "oscillating": {  # smoothed labels have their minimum at finite weights, beyond which it steps
        "network": _linear,
        "rate": 0.0,
        "regularizers": [LabelSmoothing(0.3)],
        "diagnostics": DiagnosticsSettings(
            "full", 5, landscape_every=1, sharpness_iterations=1, health=Thresholds(window=20)
        ),
        "optimizer": _all_at_once,
        "full_batch": True,
        "epochs": 80,
    },
}


@pytest.mark.parametrize("trouble", CASES)
def test_each_trouble_is_told_from_the_others(trouble: str, tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    run_training(_job(**CASES[trouble]), folder)
    found = [verdict["trouble"] for verdict in _verdicts(folder)]
    assert found == [trouble]


@pytest.mark.parametrize("network", [_relu, _tanh])
@pytest.mark.parametrize("rate", [0.03, 0.1])
def test_what_learns_has_no_verdict(network: Any, rate: float, tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    result = run_training(_job(network, rate), folder)
    assert result["val/acc"] > 0.6
    assert result["health"] == []
