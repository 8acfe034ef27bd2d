"""What a diagnosis is based on: plain numbers of a whole training, small enough for a JSON file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cnnexp.diagnostics.loss_curve import LossCurve
from cnnexp.diagnostics.measurement import Measurement

_EARLY = 5  # measurements kept from the start, and as many from the end
_FIGURES = ("gradient", "weight_gradient", "weight", "update", "std", "dead", "saturated")
_EPOCH = ("train/loss", "val/loss", "train/acc", "val/acc")


@dataclass
class Evidence:
    """The evidence of one training.

    Attributes:
        classes: How many classes the data is said to have.
        steps: How many steps of the optimiser there were.
        curve: The loss by step.
        epochs: ``train/loss``, ``val/loss``, ``train/acc``, ``val/acc`` of each epoch so far.
        early: The layers' figures in each of the first measurements: one dictionary by layer name a
            measurement, with the names of :class:`LayerFigures` and ``label``.
        late: The same of the last measurements.
        reach: Σ ‖ΔW‖·‖∂L/∂W‖ over layers and steps: by how much the steps could have lowered the loss
            at most, to first order.
        gradient_norms: ‖∂L/∂θ‖ at the first and the last measurement; empty if unknown.
        penalties: For each penalty, what it added to the loss at the first and the last measurement.
        facts: What is known of data, network and settings; see ``data_facts``, ``network_facts`` and
            ``loss_facts``.
        predictions: Of the last validation, see ``cnnexp.diagnostics.predictions``.
        batch_classes: The mean, over measured batches, of the number of classes in a batch as a share
            of what a shuffled batch would be expected to have; None if unknown.
        non_finite: ``step``, ``layer`` and ``evidence`` of a loss, gradient or weight that is infinite
            or NaN; empty if there was none.
    """

    classes: int
    steps: int = 0
    curve: LossCurve = field(default_factory=LossCurve)
    epochs: list[dict[str, float]] = field(default_factory=list)
    early: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    late: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    reach: float = 0.0
    gradient_norms: list[float] = field(default_factory=list)
    penalties: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, Any] = field(default_factory=dict)
    batch_classes: float | None = None
    non_finite: dict[str, Any] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """The loss of a network that finds all classes equally likely: ln(classes), or what the facts say of
        another loss than the cross-entropy. Of labels and numbers, which nobody can guess, the loss at the
        start.
        """
        if "chance" in self.facts:
            return float(self.facts["chance"])
        if self.classes > 1:
            return math.log(self.classes)
        return self.curve.start if self.curve.start > 0 else math.log(2)

    @property
    def said_of_chance(self) -> str:
        """What :attr:`chance` is, in words."""
        known = self.classes > 1 or "chance" in self.facts
        return f"{'guessing would give' if known else 'it began at'} {self.chance:.3g}"

    @property
    def first(self) -> dict[str, dict[str, Any]]:
        """The layers' figures in the first measurement; empty if nothing was measured."""
        return self.early[0] if self.early else {}

    @property
    def last(self) -> dict[str, dict[str, Any]]:
        """The layers' figures in the last measurement; empty if nothing was measured."""
        return self.late[-1] if self.late else {}

    def add(self, measurement: Measurement) -> None:
        """Take a measurement into account."""
        before, self.steps = self.steps, measurement.step + 1
        self.curve.add(measurement.losses)
        figures = {
            layer.name: {
                "label": str(layer),
                **{name: getattr(layer, name) for name in _FIGURES},
            }
            for layer in measurement.layers
        }
        if measurement.gradient_norm is not None and math.isfinite(measurement.gradient_norm):
            first = (*self.gradient_norms, measurement.gradient_norm)[0]
            self.gradient_norms = [first, measurement.gradient_norm]
        numbers = (value for layer in figures.values() for value in layer.values())
        if not figures or any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
            return  # of such a step nothing can be learned but that it was
        if len(self.early) < _EARLY:
            self.early.append(figures)
        self.late = [*self.late, figures][-_EARLY:]
        products = [(x.update, x.weight_gradient) for x in measurement.layers]
        reach = sum(update * gradient for update, gradient in products if gradient)
        if math.isfinite(reach):
            self.reach += reach * max(1, self.steps - before)

    def add_penalty(self, name: str, value: float) -> None:
        """Record what the penalty ``name`` added to the loss of a measured step."""
        if not math.isfinite(value):
            return
        first = self.penalties.get(name, [value])[0]
        self.penalties[name] = [first, value]

    def add_epoch(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an epoch, those of the four that ``metrics`` holds."""
        known = {
            name: metrics[name] for name in _EPOCH if math.isfinite(metrics.get(name, math.nan))
        }
        self.epochs.append(known)

    def add_batch(self, seen: float) -> None:
        """Record the share of the expected classes that a measured batch had."""
        before = self.batch_classes
        self.batch_classes = seen if before is None else 0.8 * before + 0.2 * seen

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain types, for JSON."""
        return {**vars(self), "curve": self.curve.state()}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Evidence:
        """The evidence that :meth:`as_dict` described."""
        return cls(**{**state, "curve": LossCurve.of(state["curve"])})


def update_ratios(measurement: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """‖ΔW‖/‖W‖ of each layer that trains, in one measurement of :class:`Evidence`."""
    return [
        layer["update"] / layer["weight"]
        for layer in measurement.values()
        if layer["weight"] and layer["weight_gradient"] is not None
    ]
