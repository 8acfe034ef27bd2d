"""TensorBoard's HParams tab: the config's choices beside the real final metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

__all__ = ["HPARAMS_METRICS", "log_hparams", "log_hparams_metrics"]

HPARAMS_METRICS = ("test/acc", "test/loss", "val/acc", "val/loss", "train/loss")
_PARTS = ("seed", "data", "model", "backward", "optimizer", "scheduler", "regularization")
_KEYS_LEFT_OUT = ("data.root", "data.download", "data.fallback")


def log_hparams(loggers: Sequence[Logger], config: Mapping[str, Any]) -> None:
    """Enter the run in the tab, its metrics unknown yet.

    The metrics must be named once, before they are known: TensorBoard takes the first list that it
    sees, and Lightning's own default would be a column ``hp_metric`` of −1.
    """
    flat = {key: value for part in _PARTS for key, value in _flatten(part, config.get(part))}
    for board in _boards(loggers):
        board.log_hyperparams(flat, {f"hp/{name}": float("nan") for name in HPARAMS_METRICS})


def log_hparams_metrics(loggers: Sequence[Logger], result: Mapping[str, Any], step: int) -> None:
    """Fill in the metrics from ``result``, at ``step``."""
    known = {f"hp/{name}": result[name] for name in HPARAMS_METRICS if result[name] is not None}
    for board in _boards(loggers):
        board.log_metrics(known, step)


def _boards(loggers: Sequence[Logger]) -> list[TensorBoardLogger]:
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]


def _flatten(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flatten(f"{prefix}.{key}", item)]
    if value is None or prefix in _KEYS_LEFT_OUT:
        return []
    plain = isinstance(value, (bool, int, float, str))
    return [(prefix.removesuffix("._target_"), value if plain else str(value))]
