"""The curve of a learning-rate range test as a picture."""

from __future__ import annotations

import math
from pathlib import Path

from cnnexp.lr_range.curve import DIVERGED, LossCurve, Suggestion


def draw_curve(curve: LossCurve, found: Suggestion | None, title: str, file: Path) -> None:
    """Write a PNG: the losses over the logarithm of the rate, and the rates that they suggest.

    Raises:
        OSError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(curve.rates, curve.losses, ".", color="0.7", label="loss of each batch")
    axes.plot(curve.rates, curve.smoothed, color="C0", label="smoothed")
    if found is not None:
        for rate, style, name in (
            (found.steepest, ":", "steepest descent"),
            (found.minimum / 10, "-.", "minimum / 10"),
            (found.minimum, "--", "minimum"),
        ):
            chosen = ", suggested" if name == found.rule else ""
            color = "C3" if chosen else "0.4"
            axes.axvline(rate, color=color, linestyle=style, label=f"{name}: {rate:.2g}{chosen}")
    finite = [loss for loss in curve.smoothed if math.isfinite(loss)]
    if finite:  # what diverged would leave no room for the rest
        first, least = finite[0], min(filter(math.isfinite, curve.losses))
        axes.set_ylim(max(0.0, least - 0.1 * first), 1.05 * min(max(finite), DIVERGED * first))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("cross-entropy, nats")
    axes.set_title(title)
    axes.legend(loc="best")
    figure.savefig(file, dpi=120)
