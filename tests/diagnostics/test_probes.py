"""What the probes say is what a slow, plain computation says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from cnnexp.data import ImageDataModule, load_digits, load_synthetic
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.models import LeNet5, SeedCNN, TinyCNN
from cnnexp.regularization import L2
from cnnexp.runs import RunFolder
from cnnexp.training import TrainingJob, run_training
from tests.diagnostics.slow import Recorder, slow_figures
from tests.training.processes import train
from tests.training.resumable import new_folder, small_job

EVERY_STEP = DiagnosticsSettings("basic", every=1)
PREFIXES = ("grad/", "weight/", "activation/")
RESULTS = ("train/", "val/", "test/")


def _sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)


def _job(*callbacks: Callback, **changes: Any) -> TrainingJob:
    settings: dict[str, Any] = {
        "data": ImageDataModule(load_digits, batch_size=32, val_size=44, train_size=171),
        "network": lambda images: SeedCNN(channels=[4, 8]),
        "optimizer": _sgd,
        "scheduler": None,
        "regularizers": [],
        "diagnostics": EVERY_STEP,
        "callbacks": lambda: list(callbacks),
        "loggers": lambda folder: (),
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1, "accelerator": "cpu"},
    }
    return small_job(**settings | changes)


def _measured(folder: RunFolder, step: int) -> dict[str, float]:
    rows = folder.read_metrics()
    found = {r["name"]: r["value"] for r in rows if r["step"] == step}
    return {name: value for name, value in found.items() if name.startswith(PREFIXES)}


NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "relu, max-pool": lambda images: SeedCNN(channels=[4, 8]),
    "tanh, average-pool": lambda images: LeNet5(),
    "sigmoid": lambda images: SeedCNN(channels=[4, 8], activation="sigmoid"),
    "batch norm": lambda images: TinyCNN(channels=[4, 6]),
    "group norm, leaky": lambda images: SeedCNN(
        channels=[4, 8], norm="group", activation="leaky_relu"
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("backward", ["native", "direct", "fused"])
def test_they_equal_a_slow_autograd(network: str, backward: str, tmp_path: Path) -> None:
    recorder, folder = Recorder(), new_folder(tmp_path / "run")
    run_training(_job(recorder, network=NETWORKS[network], backward=backward), folder)
    assert len(recorder.steps) == 6
    for step in (0, 3, 5):  # the last batch is a small one
        expected = slow_figures(recorder, step)
        found = _measured(folder, step)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            # ΔW of momentum is small beside W: float32 keeps five of its digits
            tolerance = 2e-3 if "/update" in name else 2e-4
            assert found[name] == pytest.approx(value, rel=tolerance, abs=1e-6), name


def test_dead_units_are_those_that_never_fire(tmp_path: Path) -> None:
    def network(images: Any) -> nn.Module:
        made = SeedCNN(channels=[4, 8])
        with torch.no_grad():
            made.get_submodule("features.0").bias[:3] = -100.0  # pyright: ignore
        return made

    folder = new_folder(tmp_path / "run")
    run_training(_job(network=network), folder)
    found = _measured(folder, 0)
    assert found["activation/features.0/dead"] == 0.75
    assert found["activation/features.3/dead"] < 0.5


def test_penalties_are_in_the_gradient_of_the_weights_alone(tmp_path: Path) -> None:
    plain, with_l2 = new_folder(tmp_path / "plain"), new_folder(tmp_path / "l2")
    run_training(_job(), plain)
    run_training(_job(regularizers=[L2(0.1)]), with_l2)
    one, other = _measured(plain, 0), _measured(with_l2, 0)
    assert one["grad/features.0/activation"] == other["grad/features.0/activation"]
    assert one["grad/features.0/weight"] != other["grad/features.0/weight"]


def test_clipping_comes_after(tmp_path: Path) -> None:
    plain, clipped = new_folder(tmp_path / "plain"), new_folder(tmp_path / "clipped")
    run_training(_job(), plain)
    settings = {"max_epochs": 1, "accelerator": "cpu", "gradient_clip_val": 1e-3}
    run_training(_job(trainer=settings), clipped)
    one, other = _measured(plain, 0), _measured(clipped, 0)
    assert one["grad/norm"] == other["grad/norm"]
    assert other["weight/features.0/update"] < 0.01 * one["weight/features.0/update"]


def test_a_step_by_several_batches_is_measured_as_one(tmp_path: Path) -> None:
    # 160 images: batches of 80 are those of 40, two by two, but for their order
    whole, halves = new_folder(tmp_path / "whole"), new_folder(tmp_path / "halves")
    trainer = {"max_epochs": 1, "accelerator": "cpu", "precision": "64-true"}
    for folder, size, count in ((whole, 160, 1), (halves, 40, 4)):
        data = ImageDataModule(load_digits, batch_size=size, val_size=44, train_size=160)
        job = _job(data=data, trainer={**trainer, "accumulate_grad_batches": count})
        run_training(job, folder)
    one, other = _measured(whole, 0), _measured(halves, 0)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-9), name


class _Scaled(Callback):
    """Multiply the loss on its way back, as 16-mixed does on a GPU."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        trainer.precision_plugin.scaler = scaler  # pyright: ignore[reportAttributeAccessIssue]


def test_under_autocast_with_a_scaled_loss_they_are_those_of_the_unscaled(tmp_path: Path) -> None:
    trainer = {"max_epochs": 1, "accelerator": "cpu"}
    full, mixed, scaled = (new_folder(tmp_path / n) for n in ("full", "mixed", "scaled"))
    run_training(_job(trainer=trainer), full)
    run_training(_job(trainer={**trainer, "precision": "bf16-mixed"}), mixed)
    run_training(_job(_Scaled(), trainer={**trainer, "precision": "bf16-mixed"}), scaled)
    one, plain, other = (_measured(folder, 0) for folder in (full, mixed, scaled))
    for name, value in one.items():
        assert plain[name] == pytest.approx(value, rel=0.05, abs=1e-3), name  # of bfloat16
        assert other[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-6), name


def _among(rank: int) -> TrainingJob:
    # noisy images: of the equal pixels of a digit's background, which one of a window wins is for
    # the rounding of the last bit to say, and the ranks' weights differ in it
    images = partial(load_synthetic, 171 + 44)
    return _job(
        data=ImageDataModule(images, batch_size=32, val_size=44, train_size=171),
        trainer={"max_epochs": 1, "accelerator": "cpu", "precision": "64-true"},
        diagnostics=DiagnosticsSettings("full", 1, landscape_every=2),
    )


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    alone, two = RunFolder(tmp_path / "alone"), RunFolder(tmp_path / "two")
    assert train(_among, alone, 1) == [0]
    assert train(_among, two, 2) == [0, 0]
    for step in (0, 1, 4, 5):  # the last by 11 images, which cannot be halved
        one, other = _measured(alone, step), _measured(two, step)
        assert one.keys() == other.keys()
        assert len(one) > 20
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-6), name
    rows = [
        {(r["step"], r["name"]): r["value"] for r in f.read_metrics() if "landscape" in r["name"]}
        for f in (alone, two)
    ]
    assert {name for _, name in rows[0]} == {
        "landscape/noise_scale",
        "landscape/cosine",
        "landscape/sharpness",
    }
    assert rows[0].keys() == rows[1].keys()
    for key, value in rows[0].items():
        assert rows[1][key] == pytest.approx(value, rel=1e-4), key


@pytest.mark.parametrize("name", ["basic", "full"])
def test_they_change_nothing(name: str, tmp_path: Path) -> None:
    looked, not_looked = new_folder(tmp_path / "looked"), new_folder(tmp_path / "not")
    settings = DiagnosticsSettings(name, every=2, landscape_every=1)
    for folder, how in ((looked, settings), (not_looked, DiagnosticsSettings("off"))):
        run_training(small_job(diagnostics=how), folder)  # dropout, mixtures, EMA
    one, other = (folder.read_metrics() for folder in (looked, not_looked))
    told = {r["name"].partition("/")[0] for r in one} - {r["name"].partition("/")[0] for r in other}
    assert told == {"grad", "weight", "activation"} | ({"landscape"} if name == "full" else set())
    kept = [
        [(r["step"], r["name"], r["value"]) for r in rows if r["name"].startswith(RESULTS)]
        for rows in (one, other)
    ]
    assert repr(kept[0]) == repr(kept[1])
