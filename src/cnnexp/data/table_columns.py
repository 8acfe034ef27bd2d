"""The rows of a .csv file, and what its columns of labels say."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnnexp.data.images import DataFileError, DataUnavailableError
from cnnexp.suggestions import did_you_mean

_KINDS = ("classes", "labels", "numbers")


@dataclass(frozen=True)
class Row:
    """One row, and where it stands.

    Attributes:
        file: The table.
        line: The line that it ends in, from 1.
        values: By column.
    """

    file: Path
    line: int
    values: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"

    def value(self, column: str) -> str:
        """What the row has in ``column``.

        Raises:
            DataFileError: Nothing.
        """
        if not (value := self.values[column].strip()):
            raise DataFileError(f"{self}: '{column}' is empty; fill it in, or take the row out")
        return value


def read_table(file: Path) -> list[Row]:
    """The rows of ``file``, whose first line names the columns; , ; or tabs are between them.

    Raises:
        DataUnavailableError: There is no such file.
        DataFileError: It is no text, has no rows, a column without a name or twice, or a row of another
            length.
    """
    if not file.is_file():
        raise DataUnavailableError(f"there is no file {file}; set data.file to a .csv file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataFileError(f"{file}: is no text in UTF-8: {error}") from error
    head = text.partition("\n")[0]
    between = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True)
    rows: list[Row] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        if "" in names or len(set(names)) < len(names) or len(names) < 2:
            raise DataFileError(
                f"{file}: its first line must name two columns or more, each once, but is '{head.strip()}'"
            )
        for values in reader:
            if not any(values):
                continue
            if len(values) != len(names):
                raise DataFileError(
                    f"{file}, line {reader.line_num}: has {len(values)} columns, but the first line names "
                    f"{len(names)}: {', '.join(names)}"
                )
            rows.append(Row(file, reader.line_num, dict(zip(names, values, strict=True))))
    except csv.Error as error:
        raise DataFileError(f"{file}, line {reader.line_num}: {error}") from error
    if not rows:
        raise DataFileError(f"{file}: has no rows below its first line")
    return rows


def column(rows: Sequence[Row], key: str, name: str) -> str:
    """``name``, if it is a column; ``key`` is the setting that names it.

    Raises:
        ValueError: It is none.
    """
    known = list(rows[0].values)
    if name not in known:
        raise ValueError(
            f"data.{key}={name}: {rows[0].file} has no such column, but {', '.join(known)}."
            f"{did_you_mean(name, known)}"
        )
    return name


def kind_of(rows: Sequence[Row], columns: Sequence[str], targets: str | None) -> str:
    """What the ``columns`` are: ``targets``, or what their values say.

    One column is of classes, unless all of it is numbers and one has a fraction; several are of labels
    where all is 0 or 1, else of numbers.

    Raises:
        ValueError: ``targets`` is unknown, or there are several columns of classes.
    """
    if targets not in (None, *_KINDS):
        raise ValueError(f"data.targets={targets}: must be classes, labels or numbers, or null")
    if targets == "classes" and len(columns) > 1:
        raise ValueError(
            f"data.targets=classes: a class is one column, but data.labels are {', '.join(columns)}"
        )
    if targets is not None:
        return targets
    values = [row.value(name) for row in rows for name in columns]
    numbers = [number for value in values if (number := _number(value)) is not None]
    if len(columns) == 1:
        fractions = len(numbers) == len(values) and not all(n.is_integer() for n in numbers)
        return "numbers" if fractions else "classes"
    return "labels" if all(value in ("0", "1") for value in values) else "numbers"


def names_of_classes(rows: Sequence[Row], name: str) -> tuple[str, ...]:
    """The values in column ``name``, each once: in the order of numbers if they are some, else of letters.

    Raises:
        DataFileError: There are fewer than two.
    """
    found = {row.value(name) for row in rows}
    if len(found) < 2:
        raise DataFileError(
            f"{rows[0].file}: '{name}' is {found.pop()} in all rows; two classes at least"
        )
    if all((number := _number(value)) is not None and number.is_integer() for value in found):
        return tuple(sorted(found, key=float))
    return tuple(sorted(found))


def labels_of(
    rows: Sequence[Row], columns: Sequence[str], kind: str, classes: Sequence[str]
) -> Tensor:
    """(N,) int64, which of ``classes`` each row has; or (N, K) float32, the labels (0 or 1) or numbers in the
    ``columns``.

    Raises:
        DataFileError: A value is no finite number or, of labels, neither 0 nor 1.
    """
    if kind == "classes":
        place = {each: i for i, each in enumerate(classes)}
        return torch.tensor([place[row.value(columns[0])] for row in rows], dtype=torch.int64)
    found = [[_checked(row, name, kind) for name in columns] for row in rows]
    return torch.tensor(found, dtype=torch.float32).reshape(len(rows), len(columns))


def _checked(row: Row, name: str, kind: str) -> float:
    text = row.value(name)
    number = _number(text)
    if number is None or (kind == "labels" and number not in (0, 1)):
        wanted = "0 or 1" if kind == "labels" else "a finite number"
        raise DataFileError(
            f"{row}: '{name}' is {text}, but must be {wanted}, as the labels are {kind}; data.labels names "
            f"the columns that count, data.targets what they are"
        )
    return number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
