"""The result of one measurement in plain numbers: for each layer, and for the whole step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class LayerFigures:
    """The figures of one layer in one step of the optimiser. All norms are L2 norms of all elements.

    None stands where there is nothing to measure: a frozen layer has no gradient, and some layers have
    nothing that can saturate.

    Attributes:
        name: The module's name in the network.
        label: A name for people, such as ``"conv1"``.
        gradient: ‖∂L/∂a‖ over the images of the step, with a as :class:`TracedLayer` defines it.
        weight_gradient: ‖∂L/∂W‖, before clipping.
        weight: ‖W‖ before the step.
        update: ‖ΔW‖ of the step's change of W.
        mean, std: Mean and standard deviation of all elements of a.
        dead: The share of units (channels, or features) whose a is 0 for every image and position.
        saturated: The share of the tanh's or sigmoid's outputs where its derivative is below a tenth
            of its maximum.
    """

    name: str
    label: str
    gradient: float | None = None
    weight_gradient: float | None = None
    weight: float = 0.0
    update: float = 0.0
    mean: float | None = None
    std: float | None = None
    dead: float | None = None
    saturated: float | None = None

    @property
    def update_ratio(self) -> float | None:
        """The ratio ‖ΔW‖/‖W‖; None if W is 0 or frozen."""
        trains = self.weight_gradient is not None
        return self.update / self.weight if self.weight and trains else None

    def __str__(self) -> str:
        return self.label if self.label == self.name else f"{self.label} ({self.name})"


@dataclass(frozen=True)
class Measurement:
    """The figures of one step of the optimiser.

    Attributes:
        step: Its number, counted from 0.
        layers: The figures of its layers, in the order of computation.
        gradient_norm: ‖∂L/∂θ‖ of all parameters, before clipping.
        losses: The training loss of each step since the previous measurement, this one included.
        images: How many images the step used.
        landscape: Those of ``noise_scale``, ``cosine`` and ``sharpness`` that were measured.
    """

    step: int
    layers: Sequence[LayerFigures] = ()
    gradient_norm: float | None = None
    losses: Sequence[float] = ()
    images: int = 0
    landscape: Mapping[str, float] = field(default_factory=dict)

    def with_landscape(self, **values: float) -> Measurement:
        """A copy with ``values`` added to the landscape."""
        return replace(self, landscape={**self.landscape, **values})

    def scalars(self) -> dict[str, float]:
        """The figures by their key, see ``cnnexp.diagnostics.keys``."""
        found: dict[str, float | None] = {"grad/norm": self.gradient_norm}
        for layer in self.layers:
            trains = layer.weight_gradient is not None
            found |= {
                f"grad/{layer.name}/activation": layer.gradient,
                f"grad/{layer.name}/weight": layer.weight_gradient,
                f"weight/{layer.name}/norm": layer.weight,
                f"weight/{layer.name}/update": layer.update if trains else None,
                f"weight/{layer.name}/update_ratio": layer.update_ratio,
                f"activation/{layer.name}/mean": layer.mean,
                f"activation/{layer.name}/std": layer.std,
                f"activation/{layer.name}/dead": layer.dead,
                f"activation/{layer.name}/saturated": layer.saturated,
            }
        found |= {f"landscape/{name}": value for name, value in self.landscape.items()}
        return {name: value for name, value in found.items() if value is not None}


def pooled(
    counts: Sequence[int], means: Sequence[float], variances: Sequence[float]
) -> tuple[float, float]:
    """Mean and standard deviation (divided by n) of the union of parts with these sizes, means and variances.

    Source: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """
    parts = [part for part in zip(counts, means, variances, strict=True) if part[0]]
    total = sum(n for n, _, _ in parts)
    if not total:
        return math.nan, math.nan
    mean = sum(n * m for n, m, _ in parts) / total
    return mean, math.sqrt(sum(n * (v + (m - mean) ** 2) for n, m, v in parts) / total)
