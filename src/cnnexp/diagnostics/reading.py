"""Combine what each rank measured into the figures of the whole batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnnexp.diagnostics.layers import TracedLayer
from cnnexp.diagnostics.measurement import LayerFigures, Measurement, pooled

_LANDSCAPE = ("noise_scale", "cosine", "sharpness")


@dataclass(frozen=True)
class Reading:
    """The measurements of one rank in a step, in plain numbers.

    Attributes:
        whole: ``losses``, ``gradient_norm``, ``scale`` and more, by name, each a list.
        layers: For each layer, those of ``means``, ``deviations`` (‖a − mean‖), ``gradients`` (‖∂L/∂a‖),
            ``alive``, ``saturated``, ``weight``, ``weight_gradient``, ``update`` that were measured.
        counts: For each layer, the number of elements of its activation in each forward pass.
    """

    whole: Mapping[str, Sequence[float]]
    layers: Sequence[Mapping[str, Sequence[float]]]
    counts: Sequence[Sequence[int]]


def measurement_of(
    step: int, layers: Sequence[TracedLayer], readings: Sequence[Reading], images: int
) -> Measurement:
    """The measurement that a single process would have made of the whole batch.

    Args:
        step: The number of the optimiser's step, counted from 0.
        layers: The layers that were measured.
        readings: The reading of each rank, in the order of ranks; gradients are averaged over them.
            The parameters and their gradients are taken from the first, as all ranks have the same.
        images: How many images the step used, on all ranks.
    """
    first = readings[0].whole
    scale = first["scale"][0] if "scale" in first else 1.0
    losses = zip(*(r.whole["losses"] for r in readings), strict=True)
    figures = [
        _figures(
            layer,
            [r.layers[i] for r in readings],
            [n for r in readings for n in r.counts[i]],
            scale,
        )
        for i, layer in enumerate(layers)
    ]
    return Measurement(
        step=step,
        layers=figures,
        gradient_norm=_one(first, "gradient_norm"),
        images=images,
        losses=[math.fsum(each) / len(readings) for each in losses],
        landscape={name: first[name][0] for name in _LANDSCAPE if name in first},
    )


def _figures(
    layer: TracedLayer,
    parts: Sequence[Mapping[str, Sequence[float]]],
    counts: Sequence[int],
    scale: float,
) -> LayerFigures:
    """The figures of one layer, from what each rank measured of it."""

    def all_of(name: str) -> list[float]:
        return [value for part in parts for value in part.get(name, ())]

    gradients, deviations = all_of("gradients"), all_of("deviations")
    variances = [d * d / n if n else 0.0 for d, n in zip(deviations, counts, strict=True)]
    mean, std = pooled(counts, all_of("means"), variances) if sum(counts) else (None, None)
    alive = [any(unit) for unit in zip(*(part["alive"] for part in parts), strict=True)]
    saturated = all_of("saturated")
    return LayerFigures(
        name=layer.name,
        label=layer.label,
        # each rank backpropagates its own mean loss, of which the mean is taken: hence the division
        gradient=math.hypot(*gradients) / scale / len(parts) if gradients else None,
        weight_gradient=_one(parts[0], "weight_gradient"),
        weight=parts[0]["weight"][0],
        update=parts[0].get("update", [0.0])[0],
        mean=mean,
        std=std,
        dead=alive.count(False) / len(alive) if alive else None,
        saturated=_weighted(saturated, counts) if saturated else None,
    )


def _weighted(shares: Sequence[float], counts: Sequence[int]) -> float:
    """The mean of ``shares`` of forward passes, weighted by their sizes ``counts``."""
    return sum(s * n for s, n in zip(shares, counts, strict=True) if n) / sum(counts)


def _one(values: Mapping[str, Sequence[float]], name: str) -> float | None:
    return values[name][0] if name in values else None
