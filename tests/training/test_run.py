"""Real trainings, in this process: what they reach, what they write, and that they repeat."""

from __future__ import annotations

import math
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from cnnexp import ops
from cnnexp.data import ImageDataModule, load_digits, load_mnist
from cnnexp.kernels import compilation
from cnnexp.kernels.cpu import bfloat16
from cnnexp.models import LeNet5, SeedCNN
from cnnexp.ops.conv_relu_pool import fused
from cnnexp.optim import cosine
from cnnexp.regularization import L2
from cnnexp.runs import RunFolder
from cnnexp.training import TrainingJob, run_training
from cnnexp.training.event_files import EventFiles
from cnnexp.training.hparams import HPARAMS_METRICS


def _job(**changes: Any) -> TrainingJob:
    """LeNet-5 on the digits: seconds."""
    seed = changes.get("seed", 0)
    settings: dict[str, Any] = {
        "data": ImageDataModule(
            load_digits, val_size=144, batch_size=64, split_seed=seed, shuffle_seed=seed
        ),
        "network": lambda images: LeNet5(image_size=images.image_size),
        "optimizer": lambda network: torch.optim.Adam(network.parameters(), lr=2e-3),
        "trainer": {"max_epochs": 2, "log_every_n_steps": 5, "accelerator": "cpu"},
        "config": {"seed": seed, "optimizer": {"_target_": "torch.optim.Adam", "lr": 2e-3}},
    }
    return TrainingJob(**settings | changes)


def _run(folder: Path, **changes: Any) -> tuple[RunFolder, dict[str, Any]]:
    folder.mkdir()
    run = RunFolder(folder)
    return run, run_training(_job(**changes), run)


def _tensorboard(folder: RunFolder) -> list[EventFiles]:
    return [EventFiles(folder.path, "tensorboard", "", default_hp_metric=False)]


@pytest.mark.long
def test_ten_thousand_mnist_images_reach_95_percent_in_two_epochs(
    mnist_root: Path, tmp_path: Path
) -> None:
    data = ImageDataModule(
        partial(load_mnist, mnist_root, download=False), val_size=2000, train_size=10_000
    )
    _, result = _run(
        tmp_path / "run",
        data=data,
        network=lambda images: SeedCNN(image_size=images.image_size),
        optimizer=lambda network: torch.optim.Adam(network.parameters(), lr=1e-3),
    )
    assert result["val/acc"] >= 0.95
    assert result["test/acc"] >= 0.95
    assert (result["dataset"], result["backward"], result["epochs"]) == ("mnist", "auto", 2)


def test_the_digits_are_learnt(tmp_path: Path) -> None:
    trainer = {"max_epochs": 8, "accelerator": "cpu"}
    _, result = _run(tmp_path / "run", trainer=trainer)
    assert result["test/acc"] >= 0.93


@pytest.mark.parametrize("backward", [*ops.algorithm_names("conv_tanh_pool"), "im2col"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    backward: str, tmp_path: Path
) -> None:
    # not auto, which measures anew where other programs disturbed it: config.yaml has what it chose
    changes = {"backward": backward, "regularizers": [L2(1e-4)], "scheduler": cosine}
    results = [
        _run(tmp_path / name, seed=seed, **changes) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    (one, first), (two, second), (_, third) = results
    exact = ("train/loss", "val/loss", "test/loss", "test/acc", "config_hash")
    assert [first[key] for key in exact] == [second[key] for key in exact]
    assert first["train/loss"] != third["train/loss"]
    states = [
        torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (one, two)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    def losses(run: RunFolder) -> list[float]:
        return [row["value"] for row in run.read_metrics() if row["name"] == "train/loss_step"]

    assert losses(one) == losses(two)
    assert len(losses(one)) == 2 * 21 // 5


@pytest.mark.parametrize("backward", [*ops.algorithm_names("conv_relu_pool"), "auto"])
def test_every_backward_trains_the_same_network(backward: str, tmp_path: Path) -> None:
    _, result = _run(tmp_path / "run", backward=backward)
    _, native = _run(tmp_path / "native", backward="native")
    assert result["backward"] == backward
    assert result["train/loss"] == pytest.approx(native["train/loss"], rel=1e-3)
    assert result["test/acc"] == pytest.approx(native["test/acc"], abs=0.02)


def test_the_run_folder_is_whole(tmp_path: Path) -> None:
    run, result = _run(tmp_path / "run", loggers=_tensorboard)
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        "config.yaml", "provenance.json", "status.json", "metrics.csv", "tensorboard",
        "checkpoints", "result.json",
    }  # fmt: skip
    files = {path.name for path in run.checkpoints.iterdir()}
    assert files == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert run.read_result() == result
    assert run.read_status()["state"] == "done"
    assert run.read_status()["step"] == result["steps"] == 2 * 21
    assert run.read_config()["optimizer"]["lr"] == 2e-3
    assert run.read_provenance()["dataset"]["name"] == "digits"
    assert run.read_provenance()["dataset"]["sizes"] == [1293, 144, 360]
    assert result.keys() >= {
        "status", "dataset", "backward", "backward/layers", "test/acc", "test/loss", "val/acc", "val/loss",
        "train/loss", "epochs", "steps", "seconds_fit", "images_per_second", "parameters", "seed",
        "config_hash",
    }  # fmt: skip
    assert result["parameters"] == 61_706
    logged = {row["name"] for row in run.read_metrics()}
    assert logged >= {
        "train/loss_step", "train/loss", "train/acc", "train/lr", "val/loss", "val/acc",
        "test/loss", "test/acc", "perf/images_per_second",
    }  # fmt: skip
    for checkpoint in run.checkpoints.iterdir():
        torch.load(checkpoint, weights_only=True)


def test_tensorboard_has_the_curves_the_pictures_and_the_hparams(tmp_path: Path) -> None:
    run, result = _run(tmp_path / "run", loggers=_tensorboard, regularizers=[L2(1e-4)])
    board = EventAccumulator(str(run.tensorboard), {"scalars": 0, "images": 0, "tensors": 0})
    board.Reload()
    assert set(board.Tags()["scalars"]) >= {
        "train/loss_step", "train/loss", "train/acc", "train/lr", "val/loss", "val/acc",
        "test/loss", "test/acc", "perf/images_per_second", "train/penalty/l2",
    }  # fmt: skip
    assert len(board.Scalars("val/acc")) == 2
    assert set(board.Tags()["images"]) >= {
        "filters/features.0", "test/confusion_matrix", "test/worst",
    }  # fmt: skip
    assert len(board.Images("filters/features.0")) == 3  # untrained, and after each epoch
    for name in HPARAMS_METRICS:
        values = [event.value for event in board.Scalars(f"hp/{name}")]
        assert math.isnan(values[0])  # announced at the start …
        assert values[-1] == pytest.approx(result[name], rel=1e-5)  # … and real at the end
    assert "hp_metric" not in board.Tags()["scalars"]
    told = [each.plugin_data for each in board.summary_metadata.values()]
    contents = [each.content for each in told if each.plugin_name == "hparams"]
    kind = plugin_data_pb2.HParamsPluginData  # pyright: ignore[reportAttributeAccessIssue]
    experiments = [kind.FromString(each).experiment for each in contents]
    names = [info.name for each in experiments for info in each.hparam_infos]
    assert sorted(names)[0] == "Dataset"  # as TensorBoard sorts its columns


def test_the_best_epoch_by_validation_is_tested_not_the_last(tmp_path: Path) -> None:
    # the learning rate is ruined after the first epoch, so that later epochs are worse
    def ruin(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 1.0 if s < 21 else 300.0)

    run, result = _run(
        tmp_path / "run", scheduler=ruin, trainer={"max_epochs": 3, "accelerator": "cpu"}
    )
    accuracies = [row["value"] for row in run.read_metrics() if row["name"] == "val/acc"]
    assert result["best_epoch"] == 1
    assert result["val/acc"] == pytest.approx(accuracies[0], abs=1e-6) == max(accuracies)
    assert result["epochs"] == 3
    assert result["test/acc"] > accuracies[-1] + 0.2


@pytest.mark.parametrize("monitor", ["val/acc", "val/loss"])
def test_the_best_is_the_greatest_accuracy_or_the_least_loss(monitor: str, tmp_path: Path) -> None:
    trainer = {"max_epochs": 4, "accelerator": "cpu"}
    run, result = _run(tmp_path / "run", monitor=monitor, trainer=trainer)
    values = [row["value"] for row in run.read_metrics() if row["name"] == monitor]
    best = max(values) if monitor == "val/acc" else min(values)
    assert result["best_epoch"] == values.index(best) + 1
    state = torch.load(run.best_checkpoint, weights_only=True)
    assert state["epoch"] == values.index(best)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pytest.mark.parametrize("backward", ["auto", "im2col"])
def test_other_precisions(precision: str, backward: str, tmp_path: Path) -> None:
    trainer = {"max_epochs": 1, "accelerator": "cpu", "precision": precision}
    _, result = _run(tmp_path / "run", trainer=trainer, backward=backward)
    assert result["train/loss"] < 2.3  # better than guessing: ln 10 = 2.303


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("backward", ["auto", "fused"])
def test_a_named_way_that_has_no_kernels_is_said(
    precision: str,
    backward: str,
    able: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if able and not bfloat16.AVAILABLE:
        pytest.skip("a processor without AVX512_BF16")
    monkeypatch.setattr(bfloat16, "AVAILABLE", able)
    # a plan may be kept from before
    monkeypatch.setattr(fused, "remembered", lambda make, tensors, *rest: make(*tensors, *rest))
    trainer = {"max_epochs": 1, "accelerator": "cpu", "precision": precision}
    blocks = {"network": lambda images: SeedCNN(channels=[4, 8], image_size=images.image_size)}
    _run(tmp_path / "run", trainer=trainer, backward=backward, **blocks)
    said = [r.getMessage() for r in caplog.records if "computed by their parts" in r.getMessage()]
    if (precision, backward, able) == ("bf16-mixed", "fused", False):
        (line,) = said
        assert re.match(
            r"backward=fused: \d blocks are computed by their parts, which is slower", line
        )
        assert "take float32 and float64, not accelerator.precision=bf16-mixed; " in line
        assert line.endswith("backward=auto takes the fastest")
    else:
        assert not said


def test_validation_in_the_middle_of_an_epoch_and_not_in_every_one(tmp_path: Path) -> None:
    trainer = {"max_epochs": 2, "accelerator": "cpu", "val_check_interval": 0.5}
    run, result = _run(tmp_path / "often", trainer=trainer)
    accuracies = [row["value"] for row in run.read_metrics() if row["name"] == "val/acc"]
    assert len(accuracies) == 4
    assert result["val/acc"] == pytest.approx(max(accuracies), abs=1e-6)
    trainer = {"max_epochs": 3, "accelerator": "cpu", "check_val_every_n_epoch": 2}
    run, result = _run(tmp_path / "seldom", trainer=trainer)
    assert torch.load(run.last_checkpoint, weights_only=True)["cnnexp"]["epoch"] == 3
    assert result["best_epoch"] == 2


class _SlowValidation(Callback):
    """Takes its time over each validation, and notes how much."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_validation_batch_start(self, *arguments: Any, **options: Any) -> None:
        began = time.perf_counter()
        time.sleep(0.2)
        self.seconds += time.perf_counter() - began


def test_the_clock_of_the_training_stands_still_in_a_validation(tmp_path: Path) -> None:
    slow = _SlowValidation()
    trainer = {"max_epochs": 2, "accelerator": "cpu", "val_check_interval": 0.5}
    run, result = _run(tmp_path / "run", trainer=trainer, callbacks=lambda: [slow])
    rows = run.read_metrics()
    seconds = [row["value"] for row in rows if row["name"] == "perf/train_seconds"]
    assert len(seconds) == 4
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] <= result["seconds_fit"] - slow.seconds + 0.01  # rounded
    assert len([row for row in rows if row["name"] == "perf/images_per_second"]) == 2


class _Compiles(Callback):
    """Has a kernel compiled in the first step of each epoch, for half a second as it were."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            watch = compilation._Watch("")
            watch.begin(load_digits)  # any function of ours
            time.sleep(0.5)
            watch.end(load_digits)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.wall = time.perf_counter() - self.began


def test_no_figure_of_speed_counts_the_compilation_of_kernels(tmp_path: Path) -> None:
    compiles = _Compiles()
    run, result = _run(tmp_path / "run", callbacks=lambda: [compiles])
    rows = run.read_metrics()
    rates = [row["value"] for row in rows if row["name"] == "perf/images_per_second"]
    trained = [row["value"] for row in rows if row["name"] == "perf/train_seconds"][-1]
    most = compiles.wall - 2 * 0.5 + 0.05
    assert trained < most
    assert sum((1437 - 144) / rate for rate in rates) < most
    assert result["images_per_second"] == pytest.approx(sum(rates) / 2, abs=0.1)
    assert result["seconds_fit"] < most + 0.5  # before the first step and after the last


def test_the_test_images_can_be_left_unread(tmp_path: Path) -> None:
    run, result = _run(tmp_path / "run", test=False, loggers=_tensorboard)
    assert result["test/acc"] is None
    assert result["test/loss"] is None
    assert result["val/acc"] > 0.5
    assert run.read_status()["state"] == "done"
    assert not [row for row in run.read_metrics() if row["name"].startswith("test/")]
    tags = EventAccumulator(str(run.tensorboard)).Reload().Tags()
    shown = [tag for kind in ("scalars", "images") for tag in tags[kind]]
    assert shown
    assert not [tag for tag in shown if tag.startswith("test/")]


def test_without_validation_the_last_epoch_is_tested(tmp_path: Path) -> None:
    run, result = _run(tmp_path / "run", data=ImageDataModule(load_digits, val_size=0))
    assert {path.name for path in run.checkpoints.iterdir()} == {"last.ckpt", "previous.ckpt"}
    assert result["val/acc"] is None
    assert result["best_epoch"] == 2


def test_a_failure_is_written_down_and_raised(tmp_path: Path) -> None:
    def broken(images: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5, 10))

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        _run(tmp_path / "run", network=broken)
    run = RunFolder(tmp_path / "run")
    assert run.read_status()["state"] == "failed"
    assert "shapes cannot be multiplied" in run.read_status()["error"]
    assert not run.result.exists()


def test_fast_dev_run_goes_through(tmp_path: Path) -> None:
    _, result = _run(tmp_path / "run", trainer={"fast_dev_run": True, "accelerator": "cpu"})
    assert result["steps"] == 1


def test_auto_writes_its_choice_and_a_rerun_takes_the_same(tmp_path: Path) -> None:
    images = {"network": lambda images: SeedCNN(image_size=images.image_size, channels=(4, 8))}
    folder, result = _run(tmp_path / "first", **images, config={"backward": {"name": "auto"}})
    layers = result["backward/layers"]
    assert set(layers) == {"features.0", "features.3", "classifier"}
    assert "auto" not in layers.values()
    written = yaml.safe_load(folder.config.read_text(encoding="utf-8"))["backward"]
    assert written == {"name": "auto", "layers": layers}
    ratio = folder.read_provenance()["step_ratio"]
    assert 0 < ratio < 1 or (ratio == 1 and set(layers.values()) == {"native"})
    other = dict.fromkeys(layers, "im2col") | {"classifier": "direct"}
    folder, again = _run(tmp_path / "again", **images, backward_layers=other)
    assert again["backward/layers"] == other
    assert "step_ratio" not in folder.read_provenance()  # nothing was measured
