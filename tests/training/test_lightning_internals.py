"""What cnnexp uses of Lightning's private interface does what its name says, with this Lightning."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    DeviceStatsMonitor,
    EarlyStopping,
    ModelCheckpoint,
    ModelPruning,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.training_epoch_loop import (
    _TrainingEpochLoop,
)
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _ResultCollection,
    _ResultMetric,
)
from torch import nn

from cnnexp.training.lightning_internals import (
    ask_no_rank_for_sigterm,
    begin_anew,
    cpu_stats,
    forget_nvml,
    leave_signals_alone,
    looks_at_epoch_end,
    may_stop_early,
    move_logged_values_once,
    pruning_is_permanent,
    rewind_on_own_memory,
    saves_at_epoch_end,
    saves_every_steps,
    steps_logged,
)
from tests.training.lightning_parts import fit, quiet_trainer


def test_the_step_that_loggers_get_is_counted(tmp_path: Any) -> None:
    steps: list[int] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            steps.append(steps_logged(trainer))
            trainer.lightning_module.log("here", 1.0)

    class Logger(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if "here" in metrics:
                given.append(step)

    given: list[int | None] = []
    logger = Logger(tmp_path)
    fit(quiet_trainer(Look(), logger=logger, log_every_n_steps=1))
    assert steps == given == [0, 1, 2]


def test_a_resumed_training_can_forget_that_it_was(tmp_path: Any) -> None:
    class Stop(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            if trainer.global_step == 1:
                trainer.save_checkpoint(tmp_path / "x.ckpt")
                trainer.should_stop = True

    found: list[tuple[int, bool]] = []

    class Resume(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            if not found:
                found.append((steps_logged(trainer), trainer.fit_loop.restarting))
                begin_anew(trainer, 7)
                found.append((steps_logged(trainer), trainer.fit_loop.restarting))

    fit(quiet_trainer(Stop()))
    fit(quiet_trainer(Resume()), ckpt_path=tmp_path / "x.ckpt", weights_only=False)
    assert found[0][1] is True
    assert found[1] == (7, False)


def test_whether_a_stop_would_be_obeyed() -> None:
    seen: list[bool] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            seen.append(may_stop_early(trainer))

    fit(quiet_trainer(Look(), min_steps=2, min_epochs=0))
    assert seen == [False, True, True]


def test_lightning_asks_ranks_for_sigterm_where_it_is_turned_off() -> None:
    assert callable(_TrainingEpochLoop._broadcast_sigterm_tensor)
    trainer = quiet_trainer()
    ask_no_rank_for_sigterm(trainer)
    # without a process group torch would refuse to broadcast
    assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None


@pytest.mark.parametrize("mend", [False, True])
def test_lightning_takes_sigterm_where_it_is_not_kept_from_it(mend: bool) -> None:
    taken: list[bool] = []

    class Look(Callback):
        def on_train_start(self, *_: Any, **__: Any) -> None:
            taken.append(signal.getsignal(signal.SIGTERM) is not before)

    before, trainer = signal.getsignal(signal.SIGTERM), quiet_trainer(Look())
    if mend:
        leave_signals_alone(trainer)
    fit(trainer)
    # the day the first is false as well, Lightning needs no mending
    assert taken == [not mend]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("mend", [False, True])
def test_a_rewound_weight_has_its_own_memory(mend: bool) -> None:
    callback = ModelPruning("l1_unstructured", amount=0.5)
    if mend:
        rewind_on_own_memory(callback)
    new, old = nn.Linear(2, 2), nn.Linear(2, 2)
    callback._copy_param(new, old, "weight")
    assert torch.equal(new.weight, old.weight)
    # the day the first is true as well, Lightning needs no mending
    assert (new.weight.data_ptr() != old.weight.data_ptr()) is mend


@pytest.mark.parametrize("value", [False, True])
def test_arguments_that_callbacks_keep_to_themselves(value: bool) -> None:
    pruning = ModelPruning("l1_unstructured", amount=0.5, make_pruning_permanent=value)
    assert pruning_is_permanent(pruning) is value
    assert cpu_stats(DeviceStatsMonitor(cpu_stats=value)) is value
    assert looks_at_epoch_end(EarlyStopping("a", check_on_train_epoch_end=value)) is value
    assert saves_at_epoch_end(ModelCheckpoint(save_on_train_epoch_end=value)) is value


def test_arguments_that_callbacks_were_not_given() -> None:
    assert pruning_is_permanent(ModelPruning("l1_unstructured", amount=0.5))
    assert cpu_stats(DeviceStatsMonitor()) is None
    assert looks_at_epoch_end(EarlyStopping("a")) is None
    assert saves_at_epoch_end(ModelCheckpoint()) is None
    assert saves_every_steps(ModelCheckpoint()) == 0


def test_how_often_checkpoints_are_written_within_an_epoch() -> None:
    assert saves_every_steps(ModelCheckpoint(every_n_train_steps=7)) == 7
    assert saves_every_steps(ModelCheckpoint(train_time_interval=timedelta(minutes=1))) == 1


@pytest.mark.parametrize("on_epoch", [False, True])
def test_a_logged_value_is_moved_where_it_is_elsewhere_alone(on_epoch: bool) -> None:
    kept: Any = _ResultCollection(training=True)
    place = torch.device("meta")

    def log(value: torch.Tensor) -> _ResultMetric:
        kept.log("fx", "loss", value, on_step=not on_epoch, on_epoch=on_epoch, batch_size=3)
        return kept["fx.loss"]

    move_logged_values_once()
    move_logged_values_once()
    first = log(torch.tensor(2.0))
    with patch(f"{_ResultMetric.__module__}.apply_to_collection") as look:
        log(torch.tensor(4.0))
    look.assert_not_called()
    assert vars(first)["value"].item() == ((2 + 4) * 3 if on_epoch else 4)
    log(torch.zeros((), device=place))
    assert vars(first)["value"].device == place
    tensors = [value for value in vars(first).values() if isinstance(value, torch.Tensor)]
    assert {tensor.device for tensor in tensors} == {place}


@pytest.mark.parametrize("gpu", [False, True])
def test_nvml_is_forgotten_where_there_is_no_gpu(
    gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") in (None, "1")  # Lightning's
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    with patch("torch.cuda.is_available", return_value=gpu):
        forget_nvml()
    assert ("PYTORCH_NVML_BASED_CUDA_CHECK" in os.environ) is gpu
