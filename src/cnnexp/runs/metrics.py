"""metrics.csv: every logged scalar, one a row, with its epoch and step.

Epochs count from 1. Version 0.1.0 counted them from 0: a file that it began is read as if it had counted
from 1, and is continued as it began.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from cnnexp.runs.epochs import epoch_after
from cnnexp.runs.files import RunFolderError

METRIC_COLUMNS = ("epoch", "step", "name", "value")
_HEAD = 100  # rows within which one names its epoch
_BLOCK = 4096  # bytes that are looked through at once, from the end


def append_metrics(file: Path, metrics: Mapping[str, float], epoch: int | None, step: int) -> None:
    """Append one row a metric, with a head line if the file is new; see ``RunFolder.append_metrics``.

    A row of which a full disk, or the end of a process, left only the beginning goes first.
    """
    new = not file.exists()
    shift = 0 if new or epoch is None else _shift(file)
    with file.open("w+b" if new else "r+b") as raw:
        whole = _whole_rows(raw)
        raw.seek(whole)
        raw.truncate()
        with io.TextIOWrapper(raw, encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            if not whole:
                writer.writerow(METRIC_COLUMNS)
            for name, value in metrics.items():
                written = "" if epoch is None else epoch - (shift if _of_an_epoch(name) else 0)
                writer.writerow((written, step, name, repr(float(value))))


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The rows as {epoch, step, name, value}, epochs from 1; empty if there is no file.

    A last row that is not whole, because it is being written or never was, is left out.

    Raises:
        RunFolderError: Another row is damaged, or the file cannot be read.
    """
    if not file.exists():
        return []
    try:
        shift = _shift(file)
        with file.open("rb") as raw:
            text = raw.read(_whole_rows(raw)).decode("utf-8", "replace")
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be read: {error.strerror}") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    made: list[dict[str, Any]] = []
    for row in rows:
        try:
            made.append(_read(row, shift))
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"{file}: line {rows.line_num} is no row of {','.join(METRIC_COLUMNS)}; mend it or take it "
                f"out"
            ) from error
    return made


def _whole_rows(stream: BinaryIO) -> int:
    """The bytes of a file up to the end of its last whole line; where it is read is then the beginning."""
    end = at = stream.seek(0, os.SEEK_END)
    while at > 0:
        begin = max(0, at - _BLOCK)
        stream.seek(begin)
        found = stream.read(at - begin).rfind(b"\n")
        if found >= 0:
            end = begin + found + 1
            break
        end = at = begin
    stream.seek(0)
    return end


def _read(row: Mapping[str | None, Any], shift: int) -> dict[str, Any]:
    if None in row or None in row.values():
        raise ValueError("more or fewer columns than the head has")
    name = row["name"]
    epoch = int(row["epoch"]) + (shift if _of_an_epoch(name) else 0) if row["epoch"] else None
    return {"epoch": epoch, "step": int(row["step"]), "name": name, "value": float(row["value"])}


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
