"""The verdict inside a training: what is said when, and that small failing trainings are named rightly."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnexp.data import ImageDataModule, ImageSet, LabelledImages, load_digits
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.models import LeNet5, SeedCNN
from cnnexp.regularization import L2
from cnnexp.runs import RunFolder
from cnnexp.training import TrainingJob, run_training
from tests.conftest import ROOT
from tests.training.resumable import new_folder, small_job


def _job(**changes: Any) -> TrainingJob:
    settings: dict[str, Any] = {
        "data": ImageDataModule(load_digits, batch_size=16, val_size=200, train_size=800),
        "network": lambda images: SeedCNN(channels=[4, 8]),
        "optimizer": lambda network: torch.optim.Adam(network.parameters(), 3e-3),
        "scheduler": None,
        "regularizers": [],
        "callbacks": list,
        "loggers": lambda folder: (),
        "diagnostics": DiagnosticsSettings("basic", 5),
        "test": False,
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    }
    return small_job(**settings | changes)


def _other_images(change: Any) -> ImageDataModule:
    def load() -> ImageSet:
        from dataclasses import replace

        images = load_digits()
        assert isinstance(images.train, LabelledImages)
        return replace(
            images, train=LabelledImages(*change(images.train.images, images.train.labels))
        )

    return ImageDataModule(load, batch_size=16, val_size=200, train_size=800)


def _softmax(images: ImageSet) -> torch.nn.Module:
    return torch.nn.Sequential(SeedCNN(channels=[4, 8]), torch.nn.Softmax(1))


def _sgd(rate: float) -> Any:
    return lambda network: torch.optim.SGD(network.parameters(), rate)


CASES: dict[str, dict[str, Any]] = {
    "lr too low": {"optimizer": _sgd(1e-6)},
    "penalty too strong": {"regularizers": [L2(3.0)], "optimizer": _sgd(0.05)},
    "lr too high": {
        "network": lambda images: LeNet5(),
        "optimizer": lambda network: torch.optim.Adam(network.parameters(), 0.5),
    },
    "labels do not fit": {
        "data": _other_images(
            lambda x, y: (x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))])
        )
    },
    "duplicates": {
        "data": _other_images(lambda x, y: (x[:500].repeat(3, 1, 1, 1), y[:500].repeat(3)))
    },
    "labels constant": {"data": _other_images(lambda x, y: (x, 0 * y))},
    "outputs squashed": {"network": _softmax, "optimizer": _sgd(0.01)},
}


@pytest.mark.parametrize("cause", CASES)
def test_a_training_that_fails_is_told_its_cause(cause: str, tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    found = run_training(_job(**CASES[cause]), folder)["diagnosis"]
    assert [finding["cause"] for finding in found["findings"]][:1] == [cause], found
    assert not found["healthy"]
    assert folder.read_evidence()["classes"] == 10


@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_that_learns_has_no_finding(
    seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    result = run_training(_job(seed=seed), new_folder(tmp_path / "run"))
    assert result["val/acc"] > 0.7
    assert result["diagnosis"]["healthy"]
    assert "verdict" not in caplog.text
    assert "health: nothing conspicuous in 100 steps" in caplog.text


def test_loud_faults_are_said_before_the_first_step_and_clear_ones_within_an_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_training(_job(**CASES["labels constant"]), new_folder(tmp_path / "constant"))
    said = [record.getMessage() for record in caplog.records if "verdict" in record.getMessage()]
    assert said[0].startswith(
        "verdict: before the first step: labels constant: all 800 training images have one label: look at"
    )
    caplog.clear()
    small = {"trainer": {"max_epochs": 4, "accelerator": "cpu"}}
    run_training(_job(**CASES["lr too low"], **small), new_folder(tmp_path / "low"))
    said = [record.getMessage() for record in caplog.records if "verdict" in record.getMessage()]
    assert said[0].startswith("verdict: so far this did not learn: it classifies ")
    assert said[1].startswith("verdict: lr too low: a step changes weights by ")
    assert said[2].startswith("verdict: this did not learn: ")
    assert len(said) == 4  # while it goes on once, and at the end


def test_a_symptom_suggests_to_mend_its_cause_first(tmp_path: Path) -> None:
    job = _job(
        regularizers=[L2(3.0)],
        optimizer=_sgd(0.05),
        trainer={"max_epochs": 4, "accelerator": "cpu"},
    )
    result = run_training(job, new_folder(tmp_path / "run"))
    assert result["health"]
    for trouble in result["health"]:
        assert trouble["suggestion"].startswith(
            "first mend its cause, penalty too strong: l2 adds "
        )


def test_judging_changes_no_number_of_the_training(tmp_path: Path) -> None:
    on = run_training(_job(), new_folder(tmp_path / "on"))
    off = run_training(_job(diagnostics=DiagnosticsSettings("off")), new_folder(tmp_path / "off"))
    assert (on["val/loss"], on["train/loss"]) == (off["val/loss"], off["train/loss"])
    assert "diagnosis" not in off
    assert not RunFolder(tmp_path / "off").evidence.exists()


@pytest.mark.long
@pytest.mark.usefixtures("mnist_root")
def test_the_held_trainings_of_the_benchmark_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind, and all habits; all of them by ``python benchmarks/verdict.py``."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    verdict = importlib.import_module("verdict")

    numbers: dict[str, int] = {}
    for number, (case, half) in enumerate(verdict.cases()):
        numbers.setdefault(case.name if half == "habits" else case.kind, number)
    rows = [verdict.judge(number) for number in numbers.values()]
    assert [row for row in rows if row["right"] != "1"] == []
