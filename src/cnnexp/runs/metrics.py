"""metrics.csv: every logged scalar, one a row, with its epoch and step.

Epochs count from 1. Version 0.1.0 counted them from 0: a file that it began is read as if it had counted
from 1, and is continued as it began.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from cnnexp.runs.epochs import epoch_after

METRIC_COLUMNS = ("epoch", "step", "name", "value")
_HEAD = 100  # rows within which one names its epoch


def append_metrics(file: Path, metrics: Mapping[str, float], epoch: int | None, step: int) -> None:
    """Append one row a metric, with a head line if the file is new; see ``RunFolder.append_metrics``."""
    new = not file.exists()
    shift = 0 if new or epoch is None else _shift(file)
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(METRIC_COLUMNS)
        for name, value in metrics.items():
            written = "" if epoch is None else epoch - (shift if _of_an_epoch(name) else 0)
            writer.writerow((written, step, name, repr(float(value))))


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The rows as {epoch, step, name, value}, epochs from 1; empty if there is no file."""
    if not file.exists():
        return []
    shift = _shift(file)
    with file.open(newline="", encoding="utf-8") as stream:
        return [
            {
                "epoch": _epoch(row, shift),
                "step": int(row["step"]),
                "name": row["name"],
                "value": float(row["value"]),
            }
            for row in csv.DictReader(stream)
        ]


def _epoch(row: Mapping[str, str], shift: int) -> int | None:
    if not row["epoch"]:
        return None
    return int(row["epoch"]) + (shift if _of_an_epoch(row["name"]) else 0)


def _of_an_epoch(name: str) -> bool:
    """Whether a row of ``name`` is of an epoch; those of the test come after them, and give their number."""
    return not name.startswith("test/")


def _shift(file: Path) -> int:
    """What is added to the epochs in ``file``, so that they count from 1."""
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        for row in islice(csv.reader(stream), _HEAD):
            if row and row[0].isdecimal():
                return epoch_after(0) if int(row[0]) == 0 else 0
    return 0
