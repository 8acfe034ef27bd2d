"""Several steps in a call of Lightning's loop give the bits of one a call."""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    WeightAveraging,
)

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.models import SeedCNN
from cnnexp.optim import LBFGS, SAM, GradientDescent, MuonWithAdamW, onecycle, plateau
from cnnexp.privacy import PrivacySettings
from cnnexp.regularization import L2, Clip, MaxNorm, MixUp, RandomShift
from cnnexp.runs import RunFolder
from cnnexp.training import TrainingJob, TrainingStopped, read_checkpoint, run_training
from cnnexp.training.callbacks import ExponentialAverage, NonFiniteGuard, ProgressBar
from cnnexp.training.steps_per_call import StepsPerCall, sees_each_step, settle_steps_per_call
from tests.training.processes import train
from tests.training.resumable import EPOCHS, STEPS, assert_same_run, new_folder, small_job


class Seen(Callback):
    """Notes the step before and after each batch that it sees; may send this process a signal at one."""

    def __init__(self, signal_at: int = -1, number: int = signal.SIGTERM) -> None:
        self.seen: list[tuple[int, int, int]] = []
        self._began, self._at, self._number = 0, signal_at, number

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._began = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append((self._began, trainer.global_step, batch_idx))
        if trainer.global_step == self._at:
            os.kill(os.getpid(), self._number)


class EachStep(Seen):
    at_each_step = True


def job(steps: StepsPerCall = 1, *callbacks: Callback, **changes: Any) -> TrainingJob:
    """Clipping, a norm's bound, mixing, shifts, dropout, EMA and one cycle, logged every third step."""
    trainer = {"max_epochs": EPOCHS, "log_every_n_steps": 3, "accelerator": "cpu"}
    settings = {
        "regularizers": [L2(1e-4), MixUp(0.2), RandomShift(2), Clip(norm=0.5), MaxNorm(2.0)],
        "trainer": trainer | changes.pop("trainer", {}),
        "steps_per_call": steps,
        "callbacks": lambda: [*callbacks, ExponentialAverage(0.9)],
    }
    return small_job(**settings | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run with one step a call."""
    folder = new_folder(tmp_path_factory.mktemp("whole") / "run")
    run_training(job(), folder)
    return folder


@pytest.mark.parametrize("steps", [2, 4, 50])
def test_the_run_is_the_same_to_the_bit(steps: int, tmp_path: Path, whole: RunFolder) -> None:
    folder, calls = new_folder(tmp_path / "run"), Seen()
    run_training(job(steps, calls), folder)
    assert_same_run(folder, whole)
    ends = [end for end in range(1, STEPS + 1) if end % steps == 0 or end == STEPS]
    of_all = [epoch * STEPS + end for epoch in range(EPOCHS) for end in ends]
    assert calls.seen == [(end - 1, end, (end - 1) % STEPS) for end in of_all]


def test_who_asks_for_each_step_sees_each_step(tmp_path: Path) -> None:
    each = EachStep()
    run_training(job(4, each), new_folder(tmp_path / "run"))
    steps = range(EPOCHS * STEPS)
    assert each.seen == [(step, step + 1, step % STEPS) for step in steps]


def _schedule_free(network: torch.nn.Module) -> Any:
    schedulefree = pytest.importorskip("schedulefree")
    return schedulefree.AdamWScheduleFree(network.parameters(), lr=0.01)


def _by(kind: Any, **options: Any) -> Any:
    return lambda network: kind(network.parameters(), **options)


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": _by(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True)},
    "muon": {"optimizer": _by(MuonWithAdamW, lr=0.01)},
    "sam": {"optimizer": _by(SAM, lr=0.02, momentum=0.9)},
    "schedule_free": {
        "optimizer": _schedule_free,
        "scheduler": None,
        "callbacks": lambda *own: [*own],
    },
    "lbfgs": {
        "optimizer": _by(LBFGS, lr=0.5, max_iter=3, history_size=4),
        "scheduler": None,
        "regularizers": [L2(1e-4), RandomShift(2)],
    },
    "plateau": {
        "scheduler": lambda o, total: plateau(o, total, mode="max", patience=0, threshold=1.0)
    },
    "accumulated": {"trainer": {"accumulate_grad_batches": 2}},
    "all images a step": {"optimizer": _by(GradientDescent, lr=0.2), "full_batch": True},
    "validated within": {"trainer": {"val_check_interval": 3}},
    "so many steps": {"trainer": {"max_epochs": -1, "max_steps": 11}},
    "skipping": {"on_nan": "skip"},
}


def _way(name: str, steps: StepsPerCall, *callbacks: Callback) -> TrainingJob:
    way = {"diagnostics": DiagnosticsSettings("basic", 4), **OPTIMIZERS[name]}
    way["trainer"] = {"max_epochs": 2, **way.get("trainer", {})}
    if "callbacks" in way:
        way["callbacks"] = partial(way["callbacks"], *callbacks)
    return job(steps, *callbacks, **way)


@pytest.mark.parametrize("steps", [4, "auto"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_way_to_train_stops_and_resumes_to_the_same_bits(
    name: str, steps: StepsPerCall, tmp_path: Path
) -> None:
    whole, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "run")
    result = run_training(_way(name, 1), whole)
    stop = EachStep(signal_at=min(STEPS + 1, result["steps"] - 1))
    with pytest.raises(TrainingStopped):
        run_training(_way(name, steps, stop), folder)
    run_training(_way(name, steps), folder, resume=True)
    assert_same_run(folder, whole)


def test_a_signal_stops_at_the_end_of_the_call(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(TrainingStopped):
        run_training(job(4, EachStep(signal_at=STEPS + 2)), folder)
    assert folder.read_status()["step"] == STEPS + 4
    assert read_checkpoint(folder.last_checkpoint)["cnnexp"]["batch"] == 4
    said = "SIGTERM: stopping after this call of up to 4 steps; once more stops at once"
    assert said in capfd.readouterr().err


def test_auto_stops_after_the_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], whole: RunFolder
) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(TrainingStopped):
        run_training(job("auto", EachStep(signal_at=STEPS + 1), checkpoint_steps=1), folder)
    assert folder.read_status()["step"] == STEPS + 1
    assert read_checkpoint(folder.last_checkpoint)["cnnexp"]["batch"] == 1
    assert "SIGTERM: stopping after this step; once more stops at once" in capfd.readouterr().err
    run_training(job("auto"), folder, resume=True)
    assert_same_run(folder, whole)


def test_checkpoints_lie_between_calls_and_any_other_number_may_resume(
    tmp_path: Path, whole: RunFolder
) -> None:
    folder, kept = new_folder(tmp_path / "run"), []

    class Keeps(Callback):
        def on_save_checkpoint(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            kept.append(trainer.global_step)

    # step 3 is over a step late; at 6 an epoch is; the best epochs' are written after validations
    stop = EachStep(signal_at=STEPS + 3)
    with pytest.raises(TrainingStopped):
        run_training(job(2, Keeps(), stop, checkpoint_steps=3), folder)
    assert sorted(set(kept)) == [4, 6, 10]
    run_training(job(1), folder, resume=True)
    assert_same_run(folder, whole)


def _killed(steps: int, at: int, rank: int) -> TrainingJob:
    return job(steps, EachStep(signal_at=at if rank == 0 else -1, number=signal.SIGKILL))


def _again(steps: int, rank: int) -> TrainingJob:
    del rank
    return job(steps)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_process_resumes_to_the_same_bits(tmp_path: Path, whole: RunFolder) -> None:
    folder = RunFolder(tmp_path / "run")
    assert train(partial(_killed, 4, STEPS + 3), folder, count=1) == [-signal.SIGKILL]
    assert read_checkpoint(folder.last_checkpoint)["cnnexp"]["step"] == STEPS
    run_training(job(4), folder, resume=True)
    assert_same_run(folder, whole)


@pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo"
)
def test_two_processes_that_are_stopped_resume_to_the_same_bits(tmp_path: Path) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    assert train(partial(_ranks, 1, -1), whole) == [0, 0]
    assert train(partial(_ranks, 2, STEPS + 1), folder) == [143, 143]
    assert train(partial(_ranks, 2, -1), folder, resume=True) == [0, 0]
    assert_same_run(folder, whole)


def _ranks(steps: int, at: int, rank: int) -> TrainingJob:
    data = ImageDataModule(load_digits, batch_size=32, val_size=44, train_size=170)
    return job(steps, EachStep(signal_at=at if rank == 1 else -1), data=data)


def test_a_private_training_counts_each_step_and_stops_within_a_call(tmp_path: Path) -> None:
    whole, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "run")
    results = [run_training(_private(steps), f) for steps, f in ((1, whole), (4, folder))]
    assert results[0]["privacy/epsilon"] == results[1]["privacy/epsilon"]
    assert 0 < results[0]["steps"] < EPOCHS * STEPS
    assert results[0]["steps"] % 4  # so it stopped in the midst of a call
    assert_same_run(folder, whole)


def _private(steps: int) -> TrainingJob:
    data = ImageDataModule(
        load_digits, batch_size=32, val_size=44, train_size=192, sampling="poisson"
    )
    privacy = PrivacySettings("dp_sgd", noise_multiplier=1.0, epsilon=3.9, secure_noise=False)
    return job(
        steps,
        data=data,
        optimizer=_by(torch.optim.SGD, lr=0.5),
        scheduler=lambda optimizer, total: onecycle(optimizer, total),
        regularizers=[L2(1e-4), RandomShift(2)],
        privacy=privacy,
        network=_plain,
        diagnostics=DiagnosticsSettings("basic", 4),
        backward="fused",
    )


def _plain(images: Any) -> torch.nn.Module:
    return SeedCNN(channels=[4, 8])


def test_who_sees_each_step() -> None:
    class Own(Callback):
        pass

    class Average(WeightAveraging):
        pass

    enough = [Own(), Seen(), ModelCheckpoint(), EarlyStopping("val/acc"), ProgressBar()]
    assert not any(map(sees_each_step, enough))
    each = [EachStep(), Average(), LearningRateMonitor(), ExponentialAverage(0.9)]
    assert all(map(sees_each_step, each))
    assert NonFiniteGuard.at_each_step


def test_auto_is_a_row_of_the_loggers_a_call_unless_a_callback_would_miss_steps() -> None:
    class Own(Callback):
        def on_train_epoch_end(self, *_: Any, **__: Any) -> None: ...

    assert settle_steps_per_call(7, 10, [Seen()]) == (7, False, ())
    assert settle_steps_per_call("auto", 10, [Own(), EachStep(), ModelCheckpoint()])[:2] == (
        10,
        True,
    )
    assert settle_steps_per_call("auto", 10, [Own()], alone=False).steps == 1
    assert settle_steps_per_call("auto", 10, [Seen()]).steps == 1
    by_instance = Own()
    vars(by_instance)["on_before_backward"] = lambda *_: None
    assert settle_steps_per_call("auto", 10, [by_instance]).steps == 1
    assert settle_steps_per_call("auto", 0, [])[:2] == (1, True)


def test_who_changes_one_of_lightnings_bars_or_stops_sees_each_step() -> None:
    class Stops(EarlyStopping):
        def on_train_batch_end(self, *_: Any, **__: Any) -> None: ...

    class Stays(EarlyStopping):
        pass

    assert settle_steps_per_call("auto", 10, [Stays("val/acc"), ProgressBar()]).steps == 10
    assert settle_steps_per_call("auto", 10, [Stops("val/acc")]).steps == 1


def test_a_call_ends_where_checkpoints_are_written() -> None:
    kept = [ModelCheckpoint(every_n_train_steps=8), ModelCheckpoint(every_n_train_steps=12)]
    assert settle_steps_per_call("auto", 10, [*kept, ModelCheckpoint()]) == (10, True, (8, 12))
    by_time = ModelCheckpoint(train_time_interval=timedelta(minutes=5))
    assert settle_steps_per_call("auto", 10, [by_time]).steps == 1


def test_auto_writes_the_checkpoints_of_one_step_a_call(tmp_path: Path) -> None:
    """In epochs whose length is no multiple of what lies between two."""
    files = []
    for steps in (1, "auto"):
        kept = ModelCheckpoint(tmp_path / str(steps), every_n_train_steps=4, save_top_k=-1)
        folder = new_folder(tmp_path / f"run {steps}")
        run_training(job(steps, callbacks=lambda kept=kept: [kept]), folder)
        files.append(sorted(each.name for each in (tmp_path / str(steps)).iterdir()))
    assert files[0] == files[1]
    assert len(files[0]) == EPOCHS * STEPS // 4
