"""The metrics of a run as a table: for programs, notebooks and people."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from cnnexp.suggestions import did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Metrics"]

_FIRST = ("train/loss", "train/acc", "val/loss", "val/acc")
_SHOWN = 6  # columns of the text
_ENDS = 10  # of a long table the first and the last rows


class Metrics(Sequence[Mapping[str, Any]]):
    """One row an epoch: its number, the step, and every metric that an epoch has one value of.

    ``metrics[-1]["val/acc"]`` is the last epoch's, ``metrics["val/acc"]`` the column, and
    ``metrics.curve("train/loss_step")`` any metric by steps.

    Args:
        rows: ``{epoch, step, name, value}`` of each logged value, as of ``RunFolder.read_metrics``.

    Attributes:
        names: All metrics that were logged.
        columns: Those of the table, ``epoch`` and ``step`` first.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._all = list(rows)
        self.names = tuple(dict.fromkeys(row["name"] for row in self._all))
        named = [row for row in self._all if _of_an_epoch(row)]
        most = max(Counter((row["name"], row["epoch"]) for row in named).values(), default=0)
        often = {
            name
            for (name, _), n in Counter((r["name"], r["epoch"]) for r in named).items()
            if n > 1
        }
        table: dict[int, dict[str, Any]] = {}
        for row in named if most else ():
            if row["name"] not in often:
                epoch = table.setdefault(row["epoch"], {"epoch": row["epoch"], "step": 0})
                epoch["step"] = max(epoch["step"], row["step"])
                epoch[row["name"]] = row["value"]
        self._table = [
            table[epoch] for epoch in sorted(table) if any(n in table[epoch] for n in _FIRST)
        ]
        found = dict.fromkeys(name for row in self._table for name in row)
        ordered = [name for name in (*("epoch", "step"), *_FIRST) if name in found]
        self.columns = (*ordered, *(name for name in found if name not in ordered))

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: Any) -> Any:
        """A row by its place, rows by a slice, or a column by its name; None where an epoch has no value."""
        if not isinstance(key, str):
            return self._table[key]
        if key not in self.columns:
            raise KeyError(self._unknown(key, self.columns))
        return [row.get(key) for row in self._table]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._table)

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """The steps at which ``name`` was logged, and its values there.

        Raises:
            KeyError: It was not logged.
        """
        if name not in self.names:
            raise KeyError(self._unknown(name, self.names))
        rows = [row for row in self._all if row["name"] == name]
        return [row["step"] for row in rows], [row["value"] for row in rows]

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``, indexed by the epoch.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")  # no dependency of ours
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self._table, columns=[*self.columns]).set_index("epoch")

    def plot(self, *names: str) -> Figure:
        """The curves of ``names`` by steps, by default the losses; a notebook shows the figure.

        Raises:
            KeyError: One of them was not logged.
        """
        from cnnexp.runs.curves import curves_figure

        chosen = names or tuple(name for name in _FIRST if name in self.names and "loss" in name)
        return curves_figure({name: self.curve(name) for name in chosen})

    def __repr__(self) -> str:
        if not self._table:
            return "Metrics of no epoch"
        shown = self.columns[:_SHOWN]
        cells = [shown, *(tuple(_text(row.get(name)) for name in shown) for row in self._ends())]
        widths = [max(len(row[i]) for row in cells) for i in range(len(shown))]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
        if (left := len(self._table) - 2 * _ENDS) > 0:
            lines.insert(_ENDS + 1, f"… {left} epochs …")
        if more := len(self.columns) - len(shown):
            lines.append(f"and {more} columns more: {', '.join(self.columns[_SHOWN:][:4])} …")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        shown = self.columns[:_SHOWN]
        head = "".join(f"<th>{escape(name)}</th>" for name in shown)
        body = "".join(
            "<tr>" + "".join(f"<td>{_text(row.get(name))}</td>" for name in shown) + "</tr>"
            for row in self._ends()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _ends(self) -> list[dict[str, Any]]:
        long = len(self._table) > 2 * _ENDS
        return [*self._table[:_ENDS], *self._table[-_ENDS:]] if long else self._table

    @staticmethod
    def _unknown(name: str, known: Sequence[str]) -> str:
        return f"there is no metric '{name}'.{did_you_mean(name, known)}"


def _of_an_epoch(row: Mapping[str, Any]) -> bool:
    return row["epoch"] is not None and not row["name"].startswith("test/")


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.4f}" if math.isfinite(value) and 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
