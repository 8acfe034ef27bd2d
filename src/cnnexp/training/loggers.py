"""Where scalars go: the run folder's metrics.csv, and TensorBoard's event files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from cnnexp.runs import RunFolder
from cnnexp.runs.epochs import epoch_after


def event_writers(loggers: Iterable[Logger]) -> list[Any]:
    """The event-file writers of those of ``loggers`` that are TensorBoard's."""
    return [each.experiment for each in loggers if isinstance(each, TensorBoardLogger)]


class MetricsFile(Logger):
    """Append what is logged to ``folder``'s metrics.csv, at once, one row a scalar.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self._folder = folder

    @property
    def name(self) -> str:
        """The kind of logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty: there is one file a run."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append ``metrics``; Lightning passes among them how many epochs are done."""
        done = metrics.get("epoch")
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        epoch = None if done is None else int(done)
        if epoch is not None and not all(name.startswith("test/") for name in values):
            epoch = epoch_after(epoch)
        self._folder.append_metrics(values, epoch=epoch, step=step or 0)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: the run folder holds the whole config."""
