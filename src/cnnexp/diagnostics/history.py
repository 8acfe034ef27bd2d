"""The data that the verdict's rules look at: the last measurement and a short history."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from cnnexp.diagnostics.measurement import LayerFigures, Measurement
from cnnexp.diagnostics.thresholds import Thresholds

_FIRST = 5  # the greatest early gradient is taken from this many measurements


@dataclass
class History:
    """The short history of one training.

    Attributes:
        classes: How many classes the data has.
        thresholds: The thresholds of the rules.
        last: The last measurement; None before the first.
        first_gradients: ‖∂L/∂W‖ of each layer at the first measurement, by name.
        early_norms: ‖∂L/∂θ‖ of the first measurements.
        norm_before: The greatest of these before the last measurement; 0 before the second.
        losses: The losses of the steps since the last whole window.
        windows: The mean loss of each window so far.
        recent: The last losses, at most a window of them.
        cosines: The last cosines between successive gradients.
        epochs: ``train/loss``, ``val/loss``, ``train/acc``, ``val/acc`` of each epoch so far.
        chance: Gives the loss of a network that finds all classes equally likely; None for ln(classes).
    """

    classes: int
    thresholds: Thresholds
    last: Measurement | None = None
    first_gradients: dict[str, float] = field(default_factory=dict)
    early_norms: list[float] = field(default_factory=list)
    norm_before: float = 0.0
    losses: list[float] = field(default_factory=list)
    windows: list[float] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    chance: Callable[[], float] | None = None

    @property
    def loss_at_chance(self) -> float:
        """The loss of a network that finds all classes equally likely."""
        return math.log(self.classes) if self.chance is None else self.chance()

    @property
    def update_ratio(self) -> float | None:
        """The median of the layers' ‖ΔW‖/‖W‖ at the last measurement; None where none was measured."""
        layers: Sequence[LayerFigures] = self.last.layers if self.last else ()
        ratios = [r for layer in layers if (r := layer.update_ratio) is not None]
        return statistics.median(ratios) if ratios else None

    def add(self, measurement: Measurement) -> None:
        """Add the next measurement."""
        self.last, window = measurement, self.thresholds.window
        if not self.first_gradients:
            self.first_gradients = {
                layer.name: layer.weight_gradient
                for layer in measurement.layers
                if layer.weight_gradient and math.isfinite(layer.weight_gradient)
            }
        self.norm_before = max(self.early_norms, default=0.0)
        norm = measurement.gradient_norm
        if norm is not None and math.isfinite(norm) and len(self.early_norms) < _FIRST:
            self.early_norms.append(norm)
        if "cosine" in measurement.landscape:
            self.cosines = [*self.cosines, measurement.landscape["cosine"]][-_FIRST:]
        # skipped steps have no finite loss
        losses = [loss for loss in measurement.losses if math.isfinite(loss)]
        self.recent = [*self.recent, *losses][-window:]
        self.losses += losses
        while len(self.losses) >= window:
            self.windows.append(math.fsum(self.losses[:window]) / window)
            del self.losses[:window]

    def add_epoch(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an epoch, those of the four that ``metrics`` holds."""
        names = ("train/loss", "val/loss", "train/acc", "val/acc")
        self.epochs.append({name: metrics[name] for name in names if name in metrics})

    def state(self) -> dict[str, Any]:
        """Everything but the last measurement, which the next one replaces, in plain types."""
        given = ("classes", "thresholds", "last", "norm_before", "chance")
        kept = [one.name for one in fields(self) if one.name not in given]
        return {"window": self.thresholds.window, **{name: getattr(self, name) for name in kept}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace the history by a state that :meth:`state` returned."""
        for name, value in state.items():
            if name != "window":
                setattr(self, name, value.copy())
        if state["window"] != self.thresholds.window:  # windows of another length are no use
            self.losses, self.windows, self.recent = [], [], []
