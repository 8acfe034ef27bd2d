"""TensorBoard's event files, written with little work for the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class EventFiles(TensorBoardLogger):
    """Lightning's logger for TensorBoard, which takes less of a step; runs take it in that one's place.

    All scalars of a row are one event, of which TensorBoard draws the same curves: each event is a turn of a
    queue that the writer's thread shares. And no row waits for that thread; a checkpoint, which a resumed run
    goes on from, does (see ``cnnexp.training.resume``).

    Args:
        save_dir, name, version: The files are in the folder ``save_dir/name/version``.
        log_graph, default_hp_metric, prefix, sub_dir: See Lightning's.
        **settings: Of ``torch.utils.tensorboard.SummaryWriter``.
    """

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | Path | None = None,
        **settings: Any,
    ) -> None:
        given = save_dir, name, version, log_graph, default_hp_metric, prefix, sub_dir
        super().__init__(*given, **settings)
        self._named_anew = bool(prefix)
        self._described = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the scalars ``metrics``, by name.

        Raises:
            ValueError: One of them is no scalar.
        """
        # None after an end of training: the writer then opens a new file
        files = self.experiment.file_writer
        row = None if files is None or self._named_anew else _row(metrics)
        if files is None or row is None:
            super().log_metrics(metrics, step)
        else:
            files.add_summary(row, step)

    @rank_zero_only
    def save(self) -> None:
        """Write the hyperparameters, once, and wait for no events."""
        if not self._described:
            super().save()
            self._described = True


def _row(metrics: Mapping[str, Any]) -> Any:
    """The scalars as one summary; None where Lightning has a way, or an error, of its own."""
    from tensorboard.compat.proto import summary_pb2

    row: Any = vars(summary_pb2)["Summary"]()  # protobuf makes its classes when it is imported
    try:
        for name, value in metrics.items():
            number = value.item() if hasattr(value, "item") else value
            row.value.add(tag=name, simple_value=float(number))
    except Exception:  # a group of curves, words, a tensor of several numbers
        return None
    return row if metrics else None
