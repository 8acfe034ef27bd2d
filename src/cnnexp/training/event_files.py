"""TensorBoard's event files, written with little work for the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class EventFiles(TensorBoardLogger):
    """Lightning's logger for TensorBoard, which takes less of a step.

    All scalars of a row are one event, of which TensorBoard draws the same curves, and the row does not wait
    until the file is written: the writer's own thread does that, each ``flush_secs``. A checkpoint, which a
    resumed run goes on from, waits for it.

    Args:
        save_dir, name, version: The files are in the folder ``save_dir/name/version``, see Lightning's.
        flush_secs: Seconds after which a row is in the file at the latest, > 0.
        **settings: Of Lightning's logger and of ``torch.utils.tensorboard.SummaryWriter``.

    Raises:
        ValueError: ``flush_secs`` is not positive.
    """

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        *,
        flush_secs: float = 1,
        **settings: Any,
    ) -> None:
        if not flush_secs > 0:
            raise ValueError(f"flush_secs must be > 0, but is {flush_secs}")
        super().__init__(save_dir, name, version, flush_secs=flush_secs, **settings)
        self._described = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the scalars ``metrics``, by name.

        Raises:
            ValueError: One of them is no scalar.
        """
        files = self.experiment.file_writer
        if (
            files is None or self._prefix
        ):  # closed by an end of training: the writer opens a new file
            super().log_metrics(metrics, step)
            return
        from tensorboard.compat.proto import summary_pb2

        row: Any = vars(summary_pb2)["Summary"]()  # protobuf makes its classes when it is imported
        try:
            for name, value in metrics.items():
                row.value.add(tag=name, simple_value=float(value))
        except (TypeError, ValueError):  # a group of curves, or what Lightning has an error for
            super().log_metrics(metrics, step)
            return
        files.add_summary(row, step)

    @rank_zero_only
    def save(self) -> None:
        """Write the hyperparameters, once, and wait for no events."""
        if not self._described:
            super().save()
            self._described = True
