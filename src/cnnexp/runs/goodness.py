"""Which way a metric is better, by its name."""

from __future__ import annotations

_LESS_IS_BETTER = ("loss", "error", "mae", "mse", "rmse")


def less_is_better(metric: str) -> bool:
    """Whether the least of ``metric`` is the best: of a loss or an error, as its name ends."""
    return metric.rpartition("/")[2].endswith(_LESS_IS_BETTER)
