"""TensorBoard's HParams tab: the config's choices beside the real final metrics; and trackers' configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from cnnexp.runs.files import leaves
from cnnexp.runs.keys import KEYS, meaning
from cnnexp.training.trackers import Tracker

HPARAMS_METRICS = ("test/acc", "test/loss", "val/acc", "val/loss", "train/loss")


def log_hparams(loggers: Sequence[Logger], config: Mapping[str, Any], dataset: str) -> None:
    """Enter the run in the tab, its metrics unknown yet; trackers get the whole config.

    The metrics must be named once, before they are known: TensorBoard takes the first list that it
    sees, and Lightning's own default would be a column ``hp_metric`` of −1.
    """
    flat = hyperparameters(config)
    # what people look for first: TensorBoard shows five columns, by ASCII, in which capitals come first
    first = {"Dataset": dataset, "Learning rate": flat.get("optimizer.lr")}
    flat = {**{name: value for name, value in first.items() if value is not None}, **flat}
    for board in _boards(loggers):
        board.log_hyperparams(flat, {f"hp/{name}": float("nan") for name in HPARAMS_METRICS})
    for tracker in loggers:
        if isinstance(tracker, Tracker):
            tracker.log_config(config)


def log_hparams_metrics(loggers: Sequence[Logger], result: Mapping[str, Any], step: int) -> None:
    """Fill in the metrics from ``result``, at ``step``."""
    known = {f"hp/{name}": result[name] for name in HPARAMS_METRICS if result.get(name) is not None}
    for board in _boards(loggers):
        board.log_metrics(known, step)


def _boards(loggers: Sequence[Logger]) -> list[TensorBoardLogger]:
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``config`` the tab shows, by dotted key; lists and the like as text."""
    shown = {}
    for part in (part for part in KEYS if part in config and KEYS[part].hparam):
        for key, value in leaves(config[part], part):
            if value is None or value == {} or not meaning(key).hparam:
                continue
            simple = isinstance(value, (bool, int, float, str))
            shown[key.removesuffix("._target_")] = value if simple else str(value)
    return shown
