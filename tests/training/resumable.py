"""A training that is stopped, killed and resumed in tests, and how to compare two of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.models import SeedCNN
from cnnexp.optim import onecycle
from cnnexp.regularization import L2, MixUp, RandomShift
from cnnexp.runs import RunFolder
from cnnexp.training import TrainingJob, read_checkpoint
from cnnexp.training.callbacks import ExponentialAverage
from cnnexp.training.event_files import EventFiles

STEPS = 6  # an epoch
EPOCHS = 3


def small_job(
    *callbacks: Callback, epochs: int = EPOCHS, workers: int = 0, **changes: Any
) -> TrainingJob:
    """Shuffling, augmentation, mixing, dropout, EMA and one cycle, looked at closely."""
    settings: dict[str, Any] = {
        "data": ImageDataModule(
            load_digits, batch_size=32, val_size=44, train_size=170, num_workers=workers
        ),
        "network": lambda images: SeedCNN(channels=[4, 8], dropout=0.3, spatial_dropout=0.1),
        "optimizer": lambda network: torch.optim.AdamW(network.parameters(), lr=3e-3),
        "scheduler": lambda optimizer, total: onecycle(optimizer, total, warmup=0.3),
        "regularizers": [L2(1e-4), MixUp(0.2), RandomShift(2)],
        "backward": "direct",
        "diagnostics": DiagnosticsSettings("full", 4, landscape_every=1, sharpness_iterations=3),
        "callbacks": lambda: [*callbacks, ExponentialAverage(0.9)],
        "loggers": tensorboard,
        "trainer": {"max_epochs": epochs, "log_every_n_steps": 1, "accelerator": "cpu"},
        "config": {"seed": 0},
    }
    return TrainingJob(**settings | changes)


class Stop(Callback):
    """Ask for a stop in the second epoch."""

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        if trainer.global_step == STEPS + 2:
            os.kill(os.getpid(), signal.SIGTERM)


def tensorboard(folder: RunFolder) -> list[EventFiles]:
    return [EventFiles(folder.path, "tensorboard", "", default_hp_metric=False)]


def new_folder(path: Path) -> RunFolder:
    path.mkdir()
    return RunFolder(path)


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are equal, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def _timed(name: str) -> bool:
    return name.startswith("perf/")


def _scalars(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.tensorboard.glob("events.*"), key=_place_of):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            if not _timed(tag):
                found.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
    return found


def _place_of(file: Path) -> tuple[str, int]:
    """Where TensorBoard reads an event file: by its name, but a process's tenth file after its ninth.

    TensorBoard would take .10 before .9 where both began within a second, as only tests do.
    """
    _, _, _, began, *_, number = file.name.split(".")
    return began, int(number)


def assert_same_run(folder: RunFolder, whole: RunFolder) -> None:
    one, other = (read_checkpoint(f.last_checkpoint) for f in (folder, whole))
    for key in ("state_dict", "training_weights", "optimizer_states", "lr_schedulers", "loops"):
        if key in other:
            assert same(one[key], other[key]), key
    assert same(one["cnnexp"]["random"], other["cnnexp"]["random"])
    assert folder.best_checkpoint.exists() == whole.best_checkpoint.exists()
    if whole.best_checkpoint.exists():
        best = [read_checkpoint(f.best_checkpoint)["state_dict"] for f in (folder, whole)]
        assert same(*best)
    rows = [[r for r in f.read_metrics() if not _timed(r["name"])] for f in (folder, whole)]
    assert repr(rows[0]) == repr(rows[1])  # NaN of nothing measured is the same NaN
    curves = [_scalars(f) for f in (folder, whole)]
    assert curves[0].keys() == curves[1].keys()
    for tag, curve in curves[1].items():
        assert repr(curves[0][tag]) == repr(curve), (tag, curves[0][tag], curve)
    results = [f.read_result() for f in (folder, whole)]
    for result in results:
        del result["seconds_fit"], result["images_per_second"]
    assert results[0] == results[1]
