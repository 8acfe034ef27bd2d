from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from cnnexp.training.event_files import EventFiles

ROWS: list[dict[str, Any]] = [
    {"train/loss": 2.5, "train/acc": 0.25, "epoch": 0},
    {"train/loss": torch.tensor(float("nan")), "norm/conv1": torch.tensor(1e-30)},
    {"train/loss": float("inf"), "val/acc": True},
]


def written(folder: Path) -> list[Any]:
    """The events of rows in the files of ``folder``."""
    files = sorted(folder.glob("events.*"))
    events = [event for file in files for event in EventFileLoader(str(file)).Load()]
    return [event for event in events if event.HasField("summary")]


def curves(folder: Path) -> dict[str, list[tuple[int, str]]]:
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return {
        tag: [(each.step, str(each.value)) for each in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def logged(kind: type[TensorBoardLogger], folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    logger = kind(folder, "board", "", default_hp_metric=False)
    for number, row in enumerate(rows):
        logger.log_metrics(row, step=10 * number)
        logger.save()
    logger.finalize("success")
    return folder / "board"


def test_the_curves_are_those_of_lightnings_logger(tmp_path: Path) -> None:
    ours, lightnings = logged(EventFiles, tmp_path / "a"), logged(TensorBoardLogger, tmp_path / "b")
    assert curves(ours) == curves(lightnings)
    assert curves(ours)["train/loss"] == [(0, "2.5"), (10, "nan"), (20, "inf")]
    assert (ours / "hparams.yaml").read_bytes() == (lightnings / "hparams.yaml").read_bytes()


def test_a_row_is_one_event(tmp_path: Path) -> None:
    rows = [[v.tag for v in event.summary.value] for event in written(logged(EventFiles, tmp_path))]
    assert rows == [list(row) for row in ROWS]


def test_after_an_end_of_training_a_new_file_is_begun(tmp_path: Path) -> None:
    logger = EventFiles(tmp_path, "board", "", default_hp_metric=False)
    logger.log_metrics({"train/loss": 1.0}, step=1)
    logger.finalize("success")
    logger.log_metrics({"hp/test/acc": 0.5, "hp/val/acc": 0.25}, step=1)
    logger.finalize("success")
    assert len(list((tmp_path / "board").glob("events.*"))) == 2
    assert set(curves(tmp_path / "board")) == {"train/loss", "hp/test/acc", "hp/val/acc"}


def test_groups_of_curves_and_prefixes_are_lightnings(tmp_path: Path) -> None:
    logger = EventFiles(tmp_path, "board", "", prefix="mine", default_hp_metric=False)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    assert set(curves(tmp_path / "board")) == {"mine-loss"}
    grouped = logged(EventFiles, tmp_path / "g", [{"loss": {"a": 1.0, "b": 2.0}}])
    assert curves(grouped / "loss_a") == {"loss": [(0, "1.0")]}


def test_what_is_no_scalar_is_refused_by_its_value(tmp_path: Path) -> None:
    logger = EventFiles(tmp_path, "board", "")
    with pytest.raises(ValueError, match=r"you tried to log words which is currently not supp"):
        logger.log_metrics({"loss": "words"}, step=0)  # pyright: ignore[reportArgumentType]
    logger.finalize("failed")


def test_no_row_waits_for_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = EventFiles(tmp_path, "board", "")
    waited: list[str] = []
    flush = logger.experiment.flush
    monkeypatch.setattr(logger.experiment, "flush", lambda: waited.append("flush"))
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step=step)
        logger.save()
    assert waited == ["flush"]  # of the first row: the hyperparameters are written with it
    flush()  # as a checkpoint does
    assert [event.step for event in written(tmp_path / "board")] == [0, 1, 2]
    logger.finalize("success")


@pytest.mark.parametrize("row", [{}, {"loss": torch.ones(2)}, {"loss": 10**400}])
def test_what_makes_no_row_is_left_to_lightnings(tmp_path: Path, row: dict[str, Any]) -> None:
    found: list[Any] = []
    for kind in (EventFiles, TensorBoardLogger):
        logger = kind(tmp_path / kind.__name__, "board", "")
        try:
            logger.log_metrics(row, step=0)
        except Exception as error:
            found.append((type(error), str(error)))
        logger.finalize("success")
        found.append(written(tmp_path / kind.__name__ / "board"))
    assert found[: len(found) // 2] == found[len(found) // 2 :]
    assert found[-1] == []
