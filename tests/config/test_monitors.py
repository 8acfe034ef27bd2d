"""A metric that is monitored is one that the run logs, and logs in time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cnnexp.config import ConfigError
from cnnexp.config.monitors import logged_metrics
from tests.config.tiny_runs import checked, stock, tiny_job, tiny_run

EVERY = "trainer.check_val_every_n_epoch"


@pytest.fixture(autouse=True)
def _empty(empty_folder: Path) -> None:
    pass


@pytest.mark.parametrize("others", [[], ["data.val_size=0"], ["regularization=l2"]])
def test_what_is_said_to_be_logged_is_logged(others: list[str], tmp_path: Path) -> None:
    job = tiny_job("trainer.max_epochs=1", "test=false", *others)
    run = tiny_run(tmp_path, "trainer.max_epochs=1", "test=false", *others)
    assert set(logged_metrics(job)) == run.names()


@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint"])
@pytest.mark.parametrize(
    ("metric", "meant"), [("val_loss", "val/loss"), ("val_acc", "val/acc"), ("train_los", "train/loss")]
)  # fmt: skip
def test_a_metric_that_nobody_logs(name: str, metric: str, meant: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked(*stock(name, monitor=metric))
    assert str(refused.value).startswith(
        f"callbacks.x.monitor={metric}: the run logs no '{metric}', but train/loss, train/acc, "
    )
    assert str(refused.value).endswith(f"Did you mean '{meant}'?")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            stock("ModelCheckpoint", filename="'{epoch}-{val_loss:.2f}'"),
            "callbacks.x.filename={epoch}-{val_loss:.2f}: the run logs no 'val_loss', but",
        ),
        (
            [*stock("EarlyStopping", monitor="val/loss"), "data.val_size=0"],
            "callbacks.x.monitor=val/loss: the run has no validation, so nobody logs val/loss; see",
        ),
        (
            ["regularization=early_stopping", "+trainer.limit_val_batches=0"],
            "regularization (EarlyStopping).monitor=val/acc: the run has no validation, so nobody",
        ),
        (stock("EarlyStopping", monitor="lr-Adam"), "the run logs no 'lr-Adam'"),
        (stock("EarlyStopping", monitor="train/penalty/l1"), "the run logs no 'train/penalty/l1'"),
    ],
)
def test_the_neighbours_of_such_a_metric(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked(*overrides)
    assert message in str(refused.value)


def test_a_checkpoint_knows_epoch_and_step_by_itself() -> None:
    checked(*stock("ModelCheckpoint", monitor="step", mode="max", save_top_k="2"))
    with pytest.raises(ConfigError, match="the run logs no 'step'"):
        checked(*stock("EarlyStopping", monitor="step"))


KINDS: dict[str, Sequence[str]] = {
    "EarlyStopping": ("check_on_train_epoch_end",),
    "ModelCheckpoint": ("save_on_train_epoch_end",),
}
VALIDATIONS = {
    "at the end": [],
    "within": ["+trainer.val_check_interval=2"],
    "every second": [f"+{EVERY}=2"],
    "by steps": [f"+{EVERY}=null", "+trainer.val_check_interval=3"],
    "never": ["data.val_size=0"],
}


@pytest.mark.parametrize("metric", ["train/loss", "val/loss"])
@pytest.mark.parametrize("when", VALIDATIONS)
@pytest.mark.parametrize("at_end", ["null", "true", "false"])
def test_it_is_refused_or_trains(metric: str, when: str, at_end: str, tmp_path: Path) -> None:
    """Both callbacks in one run, if each passes the checks by itself."""
    passed = []
    for number, (name, (key,)) in enumerate(KINDS.items()):
        overrides = [
            override.replace("callbacks.x", f"callbacks.x{number}")
            for override in stock(name, monitor=metric, **{key: at_end})
        ]
        reason = _refusal(*VALIDATIONS[when], *overrides)
        if reason:
            assert metric in reason
            assert when == "never" or at_end != "null" or metric == "train/loss"
        else:
            passed += overrides
    if passed:
        tiny_run(tmp_path, "test=false", *VALIDATIONS[when], *passed)


def _refusal(*overrides: str) -> str:
    try:
        checked(*overrides)
    except ConfigError as error:
        return str(error)
    return ""
