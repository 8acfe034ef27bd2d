"""The loss of a whole training in at most 64 numbers, whatever its length."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

_MOST = 64  # bins; an even number


class LossCurve:
    """The mean loss of successive bins of equally many steps; a bin doubles when there are too many.

    Attributes:
        first: The mean of the first five losses; NaN before there is one.
        bins: The means of the whole bins, in the order of steps.
        width: Steps of a bin.
    """

    def __init__(self) -> None:
        self._first: list[float] = []
        self.bins: list[float] = []
        self.width = 1
        self._open: list[float] = []

    @property
    def start(self) -> float:
        """The loss of the first step; NaN before there is one."""
        return self._first[0] if self._first else math.nan

    @property
    def first(self) -> float:
        """The mean of the first five losses; NaN before there is one."""
        return statistics.fmean(self._first) if self._first else math.nan

    def add(self, losses: Iterable[float]) -> None:
        """Append the losses of steps; those that are not finite are left out."""
        for loss in losses:
            if not math.isfinite(loss):
                continue
            if len(self._first) < 5:
                self._first.append(loss)
            self._open.append(loss)
            if len(self._open) == self.width:
                self.bins.append(statistics.fmean(self._open))
                self._open = []
            if len(self.bins) == _MOST:
                pairs = zip(self.bins[::2], self.bins[1::2], strict=True)
                self.bins = [(one + other) / 2 for one, other in pairs]
                self.width *= 2

    def mean(self, begin: float, end: float) -> float:
        """The mean loss from the share ``begin`` of the training to the share ``end``; NaN without a loss."""
        if not self.bins:
            return self.first
        low = min(int(begin * len(self.bins)), len(self.bins) - 1)
        high = max(math.ceil(end * len(self.bins)), low + 1)
        return statistics.fmean(self.bins[low:high])

    @property
    def last(self) -> float:
        """The mean loss of the last tenth of the training."""
        return self.mean(0.9, 1.0)

    @property
    def late_fall(self) -> float:
        """The share of itself by which the loss fell from the third quarter to the last one."""
        before, after = self.mean(0.5, 0.75), self.mean(0.75, 1.0)
        return (before - after) / abs(before) if before else 0.0

    def state(self) -> dict[str, Any]:
        """Everything, in plain types."""
        return {
            "first": list(self._first),
            "bins": list(self.bins),
            "width": self.width,
            "open": list(self._open),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> LossCurve:
        """The curve that :meth:`state` described."""
        curve = cls()
        curve._first, curve.bins = list(state["first"]), list(state["bins"])
        curve.width, curve._open = int(state["width"]), list(state["open"])
        return curve
