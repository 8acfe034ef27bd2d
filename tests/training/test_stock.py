"""Lightning's callbacks in a run that is stopped and resumed: the bits of one that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelPruning,
    SpikeDetection,
    Timer,
    WeightAveraging,
)

from cnnexp.data import ImageDataModule, load_synthetic
from cnnexp.models import TinyCNN
from cnnexp.runs import RunFolder
from cnnexp.training import TrainingJob, TrainingStopped, read_checkpoint, run_training
from cnnexp.training.steps_per_call import StepsPerCall
from tests.training.resumable import same

STEPS = 4  # batches an epoch
STATEFUL: dict[str, Callable[[], Sequence[Callback]]] = {
    "BackboneFinetuning": lambda: [BackboneFinetuning(1, backbone_initial_lr=0.01)],
    "EarlyStopping": lambda: [EarlyStopping("val/loss", patience=2)],
    "EMAWeightAveraging": lambda: [EMAWeightAveraging(decay=0.9)],
    "GradientAccumulationScheduler": lambda: [GradientAccumulationScheduler({0: 1, 1: 2})],
    "ModelCheckpoint": lambda: [ModelCheckpoint(monitor="val/loss", save_top_k=2, save_last=True)],
    "ModelPruning": lambda: [ModelPruning("l1_unstructured", amount=0.3)],
    "SpikeDetection": lambda: [SpikeDetection(rtol=1e3, window=3)],
    "Timer": lambda: [Timer({"hours": 1})],
    "WeightAveraging": lambda: [WeightAveraging()],
}


class _Stop(Callback):
    """Send this process a signal after so many batches."""

    at_each_step = True

    def __init__(self, batches: int) -> None:
        self._left = batches

    def on_train_batch_end(self, *arguments: Any, **options: Any) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def _job(*callbacks: Callback, steps: StepsPerCall) -> TrainingJob:
    return TrainingJob(
        data=ImageDataModule(
            lambda: load_synthetic(80, image_size=8), batch_size=16, val_size=16, eval_batch_size=16
        ),
        network=lambda images: TinyCNN(channels=[2, 2], image_size=images.image_size),
        optimizer=lambda network: torch.optim.Adam(
            [p for p in network.parameters() if p.requires_grad], lr=0.02
        ),
        backward="native",
        trainer={"max_epochs": 3, "log_every_n_steps": 3, "accelerator": "cpu"},
        callbacks=lambda: callbacks,
        steps_per_call=steps,
        config={"seed": 0},
    )


def _run(
    folder: Path, *callbacks: Callback, steps: StepsPerCall = "auto", resume: bool = False
) -> RunFolder:
    folder.mkdir(exist_ok=True)
    run = RunFolder(folder)
    run_training(_job(*callbacks, steps=steps), run, resume=resume)
    return run


@pytest.mark.parametrize("name", STATEFUL)
def test_stopped_and_resumed_within_a_call_it_is_the_run_of_one_step_a_call(
    name: str, tmp_path: Path
) -> None:
    whole = _run(tmp_path / "whole", *STATEFUL[name](), steps=1)
    # within the second epoch, for which something has been remembered since the first
    stopped = tmp_path / "stopped"
    with pytest.raises(TrainingStopped):
        _run(stopped, *STATEFUL[name](), _Stop(STEPS + 2))
    again = _run(stopped, *STATEFUL[name](), resume=True)
    one, other = (read_checkpoint(run.last_checkpoint) for run in (again, whole))
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        assert same(one.get(key), other.get(key)), key
    rows = [
        sorted(
            (row["step"], row["name"], row["value"], row["epoch"])
            for row in run.read_metrics()
            if not row["name"].startswith("perf/")
        )
        for run in (again, whole)
    ]
    assert rows[0] == rows[1]
    results = [run.read_result() for run in (again, whole)]
    for result in results:
        del result["seconds_fit"], result["images_per_second"]
    assert results[0] == results[1]
    files = [{f.name for f in run.checkpoints.rglob("*.ckpt")} for run in (again, whole)]
    assert files[0] == files[1]


def test_pruned_weights_are_rewound_to_their_first_values_each_time(tmp_path: Path) -> None:
    """Lightning's own second time rewinds to where the training has come since the first."""
    first: dict[str, torch.Tensor] = {}

    class Note(Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            first.update({n: p.detach().clone() for n, p in pl_module.named_parameters()})

    run = _run(tmp_path / "run", ModelPruning("l1_unstructured", amount=0.3), Note())
    last = read_checkpoint(run.last_checkpoint)["state_dict"]
    for name, weight in first.items():
        assert torch.equal(last[name], torch.where(last[name] == 0, 0.0, weight)), name
