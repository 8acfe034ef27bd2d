"""The evidence of a training that left none, from the scalars that it logged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cnnexp.diagnostics.evidence import Evidence
from cnnexp.diagnostics.measurement import LayerFigures, Measurement

_FIGURES = {  # the end of a key → the figure
    "grad/activation": "gradient",
    "grad/weight": "weight_gradient",
    "weight/norm": "weight",
    "weight/update": "update",
    "activation/std": "std",
    "activation/dead": "dead",
    "activation/saturated": "saturated",
}
_EPOCH = ("train/loss", "val/loss", "train/acc", "val/acc")


def evidence_from(rows: Iterable[Mapping[str, Any]], classes: int) -> Evidence:
    """The evidence in the rows of metrics.csv; without facts of data, network and settings.

    Args:
        rows: {epoch, step, name, value}, see ``cnnexp.runs.RunFolder.read_metrics``.
        classes: How many classes the data has.
    """
    evidence = Evidence(classes)
    steps: dict[int, dict[str, float]] = {}
    epochs: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["name"] in _EPOCH and row["epoch"] is not None:
            epochs.setdefault(row["epoch"], {})[row["name"]] = row["value"]
        else:
            steps.setdefault(row["step"], {})[row["name"]] = row["value"]
    last = 0
    for step in sorted(steps):
        logged = steps[step]
        losses = [logged["train/loss_step"]] if "train/loss_step" in logged else []
        layers = _layers(logged)
        if losses or layers:
            evidence.add(Measurement(step, layers, logged.get("grad/norm"), losses))
        for name, value in logged.items():
            if name.startswith("train/penalty/"):
                evidence.add_penalty(name.removeprefix("train/penalty/"), value)
        last = max(last, step + 1 if losses or layers else 0)
    for number in sorted(epochs):
        evidence.add_epoch(epochs[number])
    evidence.steps = last
    return evidence


def _layers(logged: Mapping[str, float]) -> list[LayerFigures]:
    found: dict[str, dict[str, float]] = {}
    for key, value in logged.items():
        kind, _, rest = key.partition("/")
        layer, _, figure = rest.rpartition("/")
        name = _FIGURES.get(f"{kind}/{figure}")
        if layer and name is not None:
            found.setdefault(layer, {})[name] = value
    return [LayerFigures(name, name, **figures) for name, figures in found.items()]
