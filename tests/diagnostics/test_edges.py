"""Trainings at the edges: what is looked at must never be what ends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.diagnostics import DiagnosticsSettings, Thresholds
from cnnexp.models import LeNet5
from cnnexp.optim import SAM
from cnnexp.runs import RunFolder
from cnnexp.training import (
    NonFiniteError,
    TrainingJob,
    TrainingStopped,
    read_checkpoint,
    run_training,
)
from tests.diagnostics.test_probes import _job
from tests.training.processes import train
from tests.training.resumable import assert_same_run, new_folder, small_job, tensorboard
from tests.training.test_non_finite import Fuse

FULL = DiagnosticsSettings("full", 1, landscape_every=1, sharpness_iterations=2)


def _digits(images: int, batch: int = 32, val: int = 44) -> ImageDataModule:
    return ImageDataModule(load_digits, batch_size=batch, val_size=val, train_size=images)


def _landscape(folder: RunFolder, name: str) -> dict[int, float]:
    rows = folder.read_metrics()
    return {r["step"]: r["value"] for r in rows if r["name"] == f"landscape/{name}"}


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(784, 10), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images.flatten(1))


class _Indices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, return_indices=True)
        self.classifier = nn.Linear(2 * 13 * 13, 10)

    def forward(self, images: Tensor) -> Tensor:
        pooled, _ = self.pool(self.conv(images))
        return self.classifier(pooled.flatten(1))


class _Drawing(nn.Module):
    """Draws random numbers in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier((images + 0.1 * torch.rand_like(images)).flatten(1))


class _Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise RuntimeError("there is no double backward")


class _NoDouble(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Raises.apply(grads[0])


class _Once(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _NoDouble.apply(x)


def _sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *layers)


NETWORKS: dict[str, Any] = {
    "unused layer": _Unused,
    "a pooling that gives indices": _Indices,
    "batch norm on few images": lambda: _sequence(
        nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10)
    ),
    "one layer": lambda: _sequence(nn.Linear(784, 10)),
    "no double backward": lambda: _sequence(nn.Linear(784, 8), _Once(), nn.Linear(8, 10)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_trains_and_is_looked_at(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = new_folder(tmp_path / "run")
    job = _job(
        network=lambda images: NETWORKS[name](),
        data=_digits(60, 12),
        backward="native",
        diagnostics=FULL,
    )
    assert run_training(job, folder)["steps"] == 5
    assert _landscape(folder, "cosine").keys() == {1, 2, 3, 4}
    fails = name == "no double backward"
    assert _landscape(folder, "sharpness").keys() == (set() if fails else {0, 1, 2, 3, 4})
    said = [r.getMessage() for r in caplog.records if "no noise and sharpness" in r.getMessage()]
    assert len(said) == fails


def test_a_network_that_draws_draws_the_same(tmp_path: Path) -> None:
    losses = []
    for settings in (FULL, DiagnosticsSettings("off")):
        folder = new_folder(tmp_path / settings.name)
        job = _job(network=lambda images: _Drawing(), backward="native", diagnostics=settings)
        run_training(job, folder)
        rows = folder.read_metrics()
        losses.append([r["value"] for r in rows if r["name"] == "train/loss_step"])
    assert losses[0] == losses[1]


def test_a_network_that_has_no_graph_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    class Untraceable(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if torch.jit.is_tracing():
                raise RuntimeError("not to be traced")
            return super().forward(input.flatten(1))

    job = _job(
        network=lambda images: nn.Sequential(Untraceable(784, 10)), backward="native", diagnostics=FULL,
        loggers=tensorboard,
    )  # fmt: skip
    run_training(job, new_folder(tmp_path / "run"))
    assert "diagnostics: no graph of this network: not to be traced" in caplog.text
    assert "No graph saved" not in capsys.readouterr().out


@pytest.mark.parametrize("scale", [1e25, float("nan")])
def test_weights_beyond_all_buckets_have_no_histogram(scale: float, tmp_path: Path) -> None:
    class Huge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier, self.huge = nn.Linear(784, 10), nn.Linear(1, 1)
            self.huge.weight.data.fill_(scale)

        def forward(self, images: Tensor) -> Tensor:
            self.huge(images.new_zeros(1, 1)).detach()
            return self.classifier(images.flatten(1))

    folder = new_folder(tmp_path / "run")
    job = _job(network=lambda images: Huge(), backward="native", diagnostics=FULL)
    job.trainer = {**job.trainer, "max_epochs": 1}
    if scale == scale:
        assert run_training(job, folder)["epochs"] == 1
    else:
        with pytest.raises(NonFiniteError, match="the weights of huge"):
            run_training(job, folder)


def test_a_skipped_step_before_a_measured_one(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    network = nn.Sequential(nn.Flatten(), Fuse((2,), "loss"), nn.Linear(784, 10))
    settings = DiagnosticsSettings("full", 1, landscape_every=10)
    job = _job(network=lambda images: network, backward="native", diagnostics=settings)
    job.on_nan = "skip"
    result = run_training(job, folder)
    assert result["health"] == []
    steps = {r["step"] for r in folder.read_metrics() if r["name"] == "grad/norm"}
    assert len(steps) == result["steps"] - result.get("steps_skipped", 0)


class _Gradients(Callback):
    """Keep the gradient of the first closure call of each step."""

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad.reshape(-1) for p in pl_module.network.parameters()]
        self.found.setdefault(trainer.global_step, torch.cat(grads).clone())


@pytest.mark.parametrize("name", ["sgd", "sam"])
def test_the_cosine_is_between_the_gradients_at_the_weights_themselves(
    name: str, tmp_path: Path
) -> None:
    def optimizer(network: nn.Module) -> torch.optim.Optimizer:
        if name == "sam":
            return SAM(network.parameters(), lr=0.05, rho=0.1)
        return torch.optim.SGD(network.parameters(), 0.05)

    seen, folder = _Gradients(), new_folder(tmp_path / "run")
    run_training(_job(seen, optimizer=optimizer, diagnostics=FULL), folder)
    found = _landscape(folder, "cosine")
    assert len(found) == 5
    for step, value in found.items():
        one, other = seen.found[step - 1], seen.found[step]
        expected = torch.nn.functional.cosine_similarity(one, other, dim=0)
        assert value == pytest.approx(float(expected), abs=1e-5)


def _uneven(rank: int) -> TrainingJob:
    # the last batch has 7 images, which two processes cannot share evenly, nor cut into 8 parts
    trainer = {"max_epochs": 1, "accelerator": "cpu", "precision": "64-true"}
    return _job(data=_digits(39), trainer=trainer, diagnostics=FULL)


def test_processes_with_unequal_parts_measure_together(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "two")
    assert train(_uneven, folder, 2) == [0, 0]
    alone = RunFolder(tmp_path / "one")
    assert train(_uneven, alone, 1) == [0]
    for step, value in _landscape(alone, "sharpness").items():
        assert _landscape(folder, "sharpness")[step] == pytest.approx(value, rel=1e-6)


def test_windows_are_of_steps_whatever_number_of_batches_these_are_by(tmp_path: Path) -> None:
    health = []
    for batch in (8, 160):
        folder = new_folder(tmp_path / str(batch))
        job = _job(
            network=lambda images: LeNet5(),
            data=_digits(160, batch),
            optimizer=lambda network: torch.optim.SGD(network.parameters(), 0.05),
            full_batch=True,
            diagnostics=DiagnosticsSettings("basic", 5, health=Thresholds(window=5)),
            trainer={"max_epochs": 23, "accelerator": "cpu"},
        )
        run_training(job, folder)
        state = read_checkpoint(folder.last_checkpoint)["callbacks"]["Diagnostics"]["health"]
        health.append(state["history"]["windows"])
    assert len(health[0]) == len(health[1]) == 4
    assert health[0] == pytest.approx(health[1], rel=1e-4)


class _Stop(Callback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            raise TrainingStopped(143)


def test_an_epoch_without_validation_is_not_judged_by_an_older_one(tmp_path: Path) -> None:
    trainer = {"max_epochs": 5, "accelerator": "cpu", "check_val_every_n_epoch": 2}
    whole, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "run")
    run_training(small_job(trainer=trainer, scheduler=None), whole)
    state = read_checkpoint(whole.last_checkpoint)["callbacks"]["Diagnostics"]["health"]
    assert len(state["history"]["epochs"]) == 2
    with pytest.raises(TrainingStopped):
        run_training(small_job(_Stop(15), trainer=trainer, scheduler=None), folder)
    run_training(small_job(trainer=trainer, scheduler=None), folder, resume=True)
    assert_same_run(folder, whole)


def test_how_closely_is_looked_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    whole, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "run")
    off = DiagnosticsSettings("off")
    run_training(small_job(diagnostics=off), whole)
    with pytest.raises(TrainingStopped):
        run_training(small_job(_Stop(8)), folder)
    run_training(small_job(diagnostics=off), folder, resume=True)
    one, other = (read_checkpoint(f.last_checkpoint)["state_dict"] for f in (folder, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)
