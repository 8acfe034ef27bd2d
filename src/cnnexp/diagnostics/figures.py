"""Figures of the gradient on its way back through the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_MOST_COLUMNS = 400


def gradient_flow_figure(steps: Sequence[int], flow: Mapping[str, Sequence[float]]) -> Figure:
    """A heat map of log₁₀ ‖∂L/∂a‖, layers × time; values that are 0 or not finite stay grey.

    Args:
        steps: The steps of the measurements.
        flow: For each layer, the first layer first, ‖∂L/∂a‖ of each measurement; NaN where there is none.
    """
    from matplotlib.figure import Figure

    every = max(1, -(-len(steps) // _MOST_COLUMNS))
    steps = steps[::every]
    rows = [[_log10(value) for value in values[::every]] for values in flow.values()]
    figure = Figure(figsize=(7.2, 1.3 + 0.28 * max(3, len(rows))), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("lightgrey")
    image = axes.pcolormesh(_edges(steps), range(len(rows) + 1), rows, cmap="viridis")
    axes.set_yticks([row + 0.5 for row in range(len(rows))], list(flow))
    axes.set(xlabel="step", title="gradient that arrives at each layer")
    axes.invert_yaxis()
    figure.colorbar(image, label="log₁₀ ‖∂L/∂a‖")
    return figure


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 and math.isfinite(value) else math.nan


def _edges(steps: Sequence[int]) -> list[float]:
    """The left edge of each measurement's column, and the right edge of the last one."""
    width = steps[-1] - steps[-2] if len(steps) > 1 else 1
    return [*map(float, steps), float(steps[-1] + width)]
