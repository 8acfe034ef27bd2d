"""Curves of metrics as a figure that a notebook shows of itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

__all__ = ["curves_figure"]


class _Shown(Figure):
    """A figure that needs neither pyplot nor an inline backend to be shown."""

    def _repr_png_(self) -> bytes:
        """The picture that Jupyter shows for a cell's last value."""
        target = io.BytesIO()
        self.savefig(target, format="png", dpi=100)
        return target.getvalue()


def curves_figure(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Figure:
    """One line for each metric: its values over the steps at which it was logged."""
    figure = _Shown(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=name, marker="o" if len(steps) < 20 else None)
    axes.set_xlabel("step")
    if curves:
        axes.legend()
    return figure
