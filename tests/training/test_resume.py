"""A training that was stopped and resumed gives the bits of one that was not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.optim import plateau
from cnnexp.runs import RunFolder
from cnnexp.training import (
    CheckpointError,
    TrainingStopped,
    read_checkpoint,
    run_training,
)
from cnnexp.training.callbacks import ExponentialAverage
from cnnexp.training.resume import files
from cnnexp.training.resume.position import Position
from tests.training.resumable import EPOCHS, STEPS, assert_same_run, new_folder, small_job


class _Signal(Callback):
    """Send this process a signal in the hook, the n-th time that it is called."""

    def __init__(self, hook: str, nth: int, number: int, times: int = 1) -> None:
        self.left = nth

        def send(*arguments: Any) -> None:
            self.left -= 1
            if self.left == 0:
                for _ in range(times):
                    os.kill(os.getpid(), number)

        setattr(self, hook, send)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run that nothing interrupts."""
    folder = new_folder(tmp_path_factory.mktemp("whole") / "run")
    result = run_training(small_job(), folder)
    assert (result["steps"], result["epochs"]) == (EPOCHS * STEPS, EPOCHS)
    return folder


STOPS = [
    ("on_train_batch_end", 1),
    ("on_train_batch_end", STEPS + 3),
    ("on_train_batch_end", 2 * STEPS),  # the last batch of an epoch: validation comes first
    ("on_train_batch_end", EPOCHS * STEPS),  # the very last
    ("on_train_epoch_start", 2),
    ("on_validation_batch_start", 2),
    ("on_validation_end", EPOCHS + 1),  # of the last epoch; the first is the sanity check
    ("on_train_epoch_end", 1),
    ("on_save_checkpoint", 2),  # while a checkpoint is written
    ("on_train_end", 1),
    ("on_test_batch_start", 1),
]


@pytest.mark.parametrize(("hook", "nth"), STOPS)
def test_stopped_anywhere_and_resumed_it_is_the_same_run(
    hook: str, nth: int, tmp_path: Path, whole: RunFolder
) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(TrainingStopped) as stop:
        run_training(small_job(_Signal(hook, nth, signal.SIGTERM)), folder)
    assert stop.value.code == 143
    assert folder.read_status()["state"] == "stopped"
    assert folder.read_status()["error"] == "stopped by SIGTERM"
    assert not folder.result.exists()
    run_training(small_job(), folder, resume=True)
    assert_same_run(folder, whole)
    assert len(folder.read_provenance()["resumed"]) == 1


@pytest.mark.parametrize("hook", ["setup", "train_dataloader", "val_dataloader"])
@pytest.mark.parametrize("before", [None, ("on_train_batch_end", 2), ("on_train_epoch_end", 1)])
def test_stopped_while_it_gets_ready_it_is_the_same_run(
    before: tuple[str, int] | None,
    hook: str,
    tmp_path: Path,
    whole: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = new_folder(tmp_path / "run")
    if before is not None:
        with pytest.raises(TrainingStopped):
            run_training(small_job(_Signal(*before, signal.SIGTERM)), folder)
    asked = getattr(ImageDataModule, hook)

    def ask(data: ImageDataModule, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(ImageDataModule, hook, asked)  # once
        return asked(data, **options)

    monkeypatch.setattr(ImageDataModule, hook, ask)
    with pytest.raises(TrainingStopped):
        run_training(small_job(), folder, resume=before is not None)
    assert folder.read_status()["error"] == "stopped by SIGTERM"
    run_training(small_job(), folder, resume=True)
    assert_same_run(folder, whole)


def test_stopped_again_and_again_with_workers_it_is_the_same_run(
    tmp_path: Path, whole: RunFolder
) -> None:
    folder = new_folder(tmp_path / "run")
    stops = 0
    while not folder.result.exists():
        job = small_job(_Signal("on_train_batch_end", 4, signal.SIGUSR1), workers=2)
        try:
            run_training(job, folder, resume=stops > 0)
        except TrainingStopped:
            stops += 1
    assert stops == 4
    assert_same_run(folder, whole)


def _schedule_free(network: torch.nn.Module) -> Any:
    schedulefree = pytest.importorskip("schedulefree")
    return schedulefree.AdamWScheduleFree(network.parameters(), lr=0.01)


WAYS: dict[str, dict[str, Any]] = {
    "plateau": {
        "scheduler": lambda o, total: plateau(o, total, mode="max", patience=0, threshold=1.0)
    },
    "schedule_free": {"scheduler": None, "optimizer": _schedule_free},
    "accumulated": {
        "trainer": {"max_epochs": 3, "accumulate_grad_batches": 4, "accelerator": "cpu"}
    },
    "validated within": {
        "trainer": {"max_epochs": 3, "val_check_interval": 2, "accelerator": "cpu"}
    },
    "not validated": {
        "data": ImageDataModule(load_digits, batch_size=32, val_size=0, train_size=170)
    },
    **{
        f"in {precision}": {
            "trainer": {"max_epochs": 3, "precision": precision, "accelerator": "cpu"}
        }
        for precision in ("64-true", "bf16-mixed")
    },
}


@pytest.mark.parametrize("name", WAYS)
def test_other_ways_to_train_resume_exactly(name: str, tmp_path: Path) -> None:

    def average() -> list[Callback]:
        return [] if name == "schedule_free" else [ExponentialAverage(0.9)]

    stop = _Signal("on_train_batch_end", STEPS + 3, signal.SIGINT)
    uninterrupted, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "run")
    run_training(small_job(**WAYS[name], callbacks=average), uninterrupted)
    with pytest.raises(TrainingStopped) as stopped:
        run_training(small_job(**WAYS[name], callbacks=lambda: [stop, *average()]), folder)
    assert stopped.value.code == 130
    run_training(small_job(**WAYS[name], callbacks=average), folder, resume=True)
    assert_same_run(folder, uninterrupted)


def test_a_second_signal_stops_at_once_and_harms_nothing(tmp_path: Path, whole: RunFolder) -> None:
    folder = new_folder(tmp_path / "run")
    twice = _Signal("on_train_batch_end", STEPS + 4, signal.SIGINT, times=2)
    with pytest.raises(TrainingStopped):
        run_training(small_job(twice), folder)
    assert read_checkpoint(folder.last_checkpoint)["cnnexp"]["step"] == STEPS
    run_training(small_job(), folder, resume=True)
    assert_same_run(folder, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_a_cluster_and_a_launcher_both_send_is_one_signal(
    number: signal.Signals, tmp_path: Path, whole: RunFolder
) -> None:
    folder = new_folder(tmp_path / "run")
    by_both = _Signal("on_train_batch_end", STEPS + 4, number, times=2)
    with pytest.raises(TrainingStopped):
        run_training(small_job(by_both), folder)
    assert read_checkpoint(folder.last_checkpoint)["cnnexp"]["step"] == STEPS + 4
    run_training(small_job(), folder, resume=True)
    assert_same_run(folder, whole)


def test_checkpoints_between_epochs_are_where_they_were_asked_for(
    tmp_path: Path, whole: RunFolder
) -> None:
    folder = new_folder(tmp_path / "run")
    twice = _Signal("on_train_batch_end", STEPS + 5, signal.SIGINT, times=2)
    with pytest.raises(TrainingStopped):
        run_training(small_job(twice, checkpoint_steps=4), folder)
    where = read_checkpoint(folder.last_checkpoint)["cnnexp"]
    assert (where["epoch"], where["batch"], where["step"]) == (1, 2, 8)
    run_training(small_job(), folder, resume=True)
    assert_same_run(folder, whole)


def test_a_damaged_checkpoint_is_passed_over_and_said_to_be(
    tmp_path: Path, whole: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(TrainingStopped):
        run_training(small_job(_Signal("on_train_batch_end", 9, signal.SIGTERM)), folder)
    content = folder.last_checkpoint.read_bytes()
    folder.last_checkpoint.write_bytes(content[:3000])
    run_training(small_job(), folder, resume=True)
    assert (
        "last.ckpt: is truncated, or was not written by cnnexp; going back to prev" in caplog.text
    )
    assert_same_run(folder, whole)
    for file in (folder.last_checkpoint, folder.previous_checkpoint):
        file.write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt: is empty; .*No good checkpoint is left"
    ):
        run_training(small_job(), folder, resume=True)


def test_the_checkpoint_is_read_and_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(TrainingStopped):
        run_training(small_job(_Signal("on_train_batch_end", 9, signal.SIGTERM)), folder)
    verify, seen = files._verify, list[str]()

    def verified(file: Path, stream: Any) -> None:
        seen.append(file.name)
        verify(file, stream)

    monkeypatch.setattr(files, "_verify", verified)
    run_training(small_job(), folder, resume=True)
    assert seen == ["last.ckpt", "best.ckpt"]  # the second for the test at the end


def test_a_position_is_what_was_written_and_a_part_of_one_is_none(tmp_path: Path) -> None:
    position = Position(
        epoch=1, batch=2, step=8, finished=False, batches_that_stepped=8,
        random=[{"python": [3, [1], None]}], logs={"metrics.csv": 100}, seconds=1.5,
    )  # fmt: skip
    checkpoint: dict[str, Any] = {"state_dict": {}}
    position.write_into(checkpoint)
    assert Position.of(checkpoint, tmp_path) == position
    for content in ({"cnnexp": "here"}, {"cnnexp": {"epoch": 1}}, {}):
        with pytest.raises(CheckpointError, match="does not say where the training was"):
            Position.of(content, tmp_path)


def test_without_a_checkpoint_it_starts_anew(tmp_path: Path, whole: RunFolder) -> None:
    folder = new_folder(tmp_path / "run")
    twice = _Signal("on_train_batch_end", 3, signal.SIGINT, times=2)
    with pytest.raises(TrainingStopped):
        run_training(small_job(twice), folder)
    assert not folder.last_checkpoint.exists()
    run_training(small_job(), folder, resume=True)
    assert_same_run(folder, whole)


def test_a_done_run_can_be_made_longer(tmp_path: Path) -> None:
    longer = new_folder(tmp_path / "longer")
    run_training(small_job(scheduler=None, epochs=3), longer)
    folder = new_folder(tmp_path / "run")
    run_training(small_job(scheduler=None, epochs=2), folder)
    run_training(small_job(scheduler=None, epochs=3), folder, resume=True)
    assert_same_run(folder, longer)


def test_a_clock_that_was_set_back_leaves_the_curves_as_they_are(
    tmp_path: Path, whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(TrainingStopped):
        run_training(small_job(_Signal("on_train_batch_end", 9, signal.SIGTERM)), folder)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    run_training(small_job(), folder, resume=True)
    first, second = (f.name for f in sorted(folder.tensorboard.glob("events.*"))[:2])
    assert int(first.split(".")[3]) > int(second.split(".")[3])  # read in order all the same
    assert_same_run(folder, whole)


def test_signals_are_as_before_afterwards(tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with pytest.raises(TrainingStopped):
        run_training(
            small_job(_Signal("on_train_start", 1, signal.SIGINT)), new_folder(tmp_path / "run")
        )
    after = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert before == after


@pytest.mark.parametrize("part", ["write_result", "write_status"])
def test_stopped_when_all_is_done_it_is_done(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder(tmp_path / "run")
    write = getattr(RunFolder, part)

    def stopped(folder: RunFolder, *arguments: Any, **options: Any) -> None:
        if folder.last_checkpoint.exists():
            os.kill(os.getpid(), signal.SIGTERM)
        write(folder, *arguments, **options)

    monkeypatch.setattr(RunFolder, part, stopped)
    result = run_training(small_job(epochs=1), folder)
    assert folder.read_status()["state"] == "done"
    assert folder.read_result() == result


def test_a_result_that_cannot_be_written_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder(tmp_path / "run")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(folder.result))

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_result", full)
        with pytest.raises(OSError, match="No space left"):
            run_training(small_job(epochs=1), folder)
    assert folder.read_status()["state"] == "failed"
    assert "No space left" in folder.read_status()["error"]
    run_training(small_job(epochs=1), folder, resume=True)
    assert folder.read_status()["state"] == "done"
