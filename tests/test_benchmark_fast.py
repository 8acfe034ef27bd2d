"""The shortest trainings train, and their benchmark reads rightly what is said; not how fast they are."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.runs import RunFolder
from cnnexp.training import run_training
from tests.conftest import ROOT
from tests.data.official_files import WRITERS

FEW = ("data=digits", "data.batch_size=100", "backward=native", "accelerator=cpu")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("fast")


def _trained(folder: Path, *overrides: str) -> dict[str, Any]:
    job = build_job(plain_config(Composer("train").compose([*overrides])))
    check_job(job)
    return run_training(job, RunFolder(folder))


@pytest.mark.parametrize("name", ["fast99", "fast994"])
def test_a_recipe_learns_digits_without_validation(name: str, tmp_path: Path) -> None:
    result = _trained(
        tmp_path, f"experiment={name}", *FEW, "data.train_size=1400", "trainer.max_epochs=3"
    )
    assert result["val/acc"] is None
    assert result["steps"] == 42
    assert result["test/acc"] > 0.9


def test_the_recipe_for_cifar10_trains_on_the_official_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["cifar10"](tmp_path / "data", monkeypatch)
    (tmp_path / "run").mkdir()
    result = _trained(
        tmp_path / "run",
        *("experiment=fast_cifar10", f"data.root={tmp_path / 'data'}", "data.download=false"),
        *("data.batch_size=10", "model.channels=[4,8]", "backward=native", "accelerator=cpu"),
        "trainer.max_epochs=2",
    )
    assert result["dataset"] == "cifar10"
    assert result["steps"] > 2
    assert torch.tensor(result["train/loss"]).isfinite()


def test_every_part_is_one_change_that_composes(fast: Any) -> None:
    known = plain_config(Composer("train").compose(list(fast.STUDIES["parts"].settings["fast99"])))
    assert known["data"]["val_size"] == 10_000
    assert known["test"] is False  # settings are compared by validation images
    for name, settings in fast.STUDIES["parts"].settings.items():
        config = plain_config(Composer("train").compose(list(settings)))
        assert config["test"] is False, name
        assert (config != known) == (name != "fast99"), name
        build_job(config)


def test_ours_times_the_fit_and_keeps_the_ways(fast: Any) -> None:
    layers: dict[str, str] = {}
    settings = ["experiment=fast99", *FEW, "data.train_size=300", "data.val_size=100", "test=false"]
    found = fast.ours(settings, 3, layers)
    assert found["cpu_seconds"] > 0
    assert found["seconds"] > 0
    assert found["images"] == 300
    assert found["on"] == "val"
    assert 0 < found["accuracy"] <= 1


def test_lines_of_a_rival_become_its_row(fast: Any) -> None:
    lines = ["first step", "epoch 1 0.985", "epoch 2 0.9904", "trained 61.5 118.25", "test 0.9904"]
    found = fast.heard_of("PyTorch's example", lines)
    assert found == {
        "program": "PyTorch's example",
        "seconds": 61.5,
        "cpu_seconds": 118.25,
        "images": 120_000,
        "accuracy": 0.9904,
        "on": "test",
    }


def test_rows_of_another_study_stay(
    fast: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "RESULTS", tmp_path / "fast.csv")
    figures = {"seconds": 2.0, "cpu_seconds": 4.0, "images": 256, "accuracy": 0.99, "on": "test"}
    for study, program in (("fast99", "cnnexp fast99"), ("fast994", "cnnexp fast994")):
        fast.write(study, [fast.as_row(study, 0, {"program": program, **figures})])
    slower = fast.as_row("fast99", 0, {"program": "one epoch, NCHW", **figures, "cpu_seconds": 16})
    fast.write("fast99", [*(r for r in fast.read() if r["study"] == "fast99"), slower])
    assert [row["study"] for row in fast.read()] == ["fast994", "fast99", "fast99"]
    made = fast.table("fast99", fast.read())
    assert (
        "| cnnexp fast99 | 99.00 ± 0.00 % | 99.00–99.00 | 1 | 256 | 0.25 | 4.00 (4.00–4.00) |"
        in made
    )
    assert fast.table("parts", fast.read()).startswith("Not measured yet")
