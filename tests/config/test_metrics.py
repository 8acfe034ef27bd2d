"""``metrics=``: logged, monitored and written into the result like the accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchmetrics import Metric

from cnnexp.config import Composer, ConfigError, conf_dir, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.runs.goodness import less_is_better
from tests.config.tiny_runs import TINY, checked, tiny_run

OF_NUMBERS = ("none", "rmse", "r2")
OF_CLASSES = sorted({f.stem for f in (conf_dir() / "metrics").glob("*.yaml")} - set(OF_NUMBERS))


def test_they_are_logged_chosen_by_and_written_into_the_result(empty_folder: Path) -> None:
    run = tiny_run(
        empty_folder,
        "metrics=[f1,calibration_error,auroc]",
        "data.size=400",
        "data.val_size=100",
        "checkpoint.monitor=val/f1",
        "trainer.max_epochs=3",
    )
    for name in ("f1", "calibration_error", "auroc"):
        assert {f"val/{name}", f"test/{name}"} <= run.names()
        assert 0 <= run.result[f"test/{name}"] <= 1
    values = run.values("val/f1")
    assert len(values) == 3
    assert run.result["val/f1"] == max(values)
    assert run.result["best_epoch"] == 1 + values.index(max(values))


def test_of_an_error_the_least_is_the_best(empty_folder: Path) -> None:
    run = tiny_run(
        empty_folder, "metrics=calibration_error", "checkpoint.monitor=val/calibration_error"
    )
    assert run.result["val/calibration_error"] == min(run.values("val/calibration_error"))
    names = ["val/loss", "val/calibration_error", "val/mae", "val/rmse", "val/acc", "val/f1"]
    assert [less_is_better(name) for name in names] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("name", OF_CLASSES)
def test_every_metric_of_classes_goes_with_a_run(name: str) -> None:
    checked(f"metrics={name}", f"checkpoint.monitor=val/{name}")


class Right(Metric):
    """How many images are classified right."""

    higher_is_better = True

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.times, self.right = times, torch.zeros(())
        self.add_state("right", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        self.right += (preds.argmax(1) == target).sum()

    def compute(self) -> torch.Tensor:
        return self.right * self.times


OWN = "+metrics.right._target_=tests.config.test_metrics.Right"


def test_a_metric_of_ones_own(empty_folder: Path) -> None:
    run = tiny_run(empty_folder, OWN, "checkpoint.monitor=val/right")
    assert run.result["val/right"] == pytest.approx(run.result["val/acc"] * 16)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("metrics=aurok",), r"metrics=aurok: unknown choice; known: .*Did you mean 'auroc'"),
        (("checkpoint.monitor=val/f1",), r"monitor=val/f1: must be one of val/acc, val/loss"),
        (("metrics=auroc", "checkpoint.monitor=val/aurok"), r"val/loss, val/auroc. Did you mean 'auroc'"),
        (("checkpoint.monitor=test/acc",), r"monitor=test/acc: must be one of val/acc, val/loss, or another"),
        (("metrics=f1", "metrics.f1.avrage=micro"), r"no key 'metrics.f1.avrage'"),
        (("metrics=f1", "metrics.f1.average=none"), r"metrics.f1: must give one number; set an average"),
        (("metrics=rmse",), r"metrics.rmse: cannot judge classes"),
        (("+metrics.x._target_=torchmetrics.F1Scor",), r"has no 'F1Scor'. Did you mean 'F1Score'"),
        ((OWN,), r"is not allowed"),
        (("+metrics.acc._target_=torchmetrics.F1Score",), r"metrics.acc: must be a name of letters"),
        (("+metrics.my_error._target_=torchmetrics.F1Score",), r"by its name the least value is the best"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(*overrides)


def test_early_stopping_may_look_at_one() -> None:
    overrides = [f"{key}={value}" for key, value in TINY.items()]
    stop = "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping"
    named = [stop, "+callbacks.stop.monitor=val/f1", "+callbacks.stop.mode=max"]
    composed = Composer("train").compose([*overrides, "metrics=f1", *named])
    check_job(build_job(plain_config(composed)))
    composed = Composer("train").compose([*overrides, *named])
    with pytest.raises(ConfigError, match="logs no 'val/f1'"):
        check_job(build_job(plain_config(composed)))
