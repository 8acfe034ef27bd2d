"""Figures: the gradient on its way back through the layers, images with captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


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


def picture_grid(images: Tensor, captions: Sequence[str]) -> Figure:
    """Images (K, C, H, W) in 0…1, six in a row, each with its caption of at most two lines above."""
    from matplotlib.figure import Figure

    columns, side, width, height = 6, 1.15, 1.4, 1.6  # the lengths of a cell, in inches
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(width * columns, height * rows))
    axes = figure.add_axes((0, 0, 1, 1))  # one for all: 36 of them take a second to lay out
    axes.set_axis_off()
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        middle, top = (i % columns + 0.5) * width, i // columns * height + 0.4
        extent = (middle - side / 2, middle + side / 2, top + side, top)
        pixels = image.permute(1, 2, 0).squeeze(-1).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent)
        axes.text(middle, top - 0.04, caption, fontsize=8, ha="center", va="bottom")
    axes.set(xlim=(0, width * columns), ylim=(height * rows, 0), aspect="auto")
    return figure
