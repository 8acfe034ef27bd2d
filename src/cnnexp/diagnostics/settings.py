"""The settings of the diagnostics: how much is measured, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field

from cnnexp.diagnostics.thresholds import Thresholds


@dataclass
class DiagnosticsSettings:
    """The extent and frequency of measurements in a training, see ``cnnexp.training.callbacks.Diagnostics``.

    Attributes:
        name: ``"off"`` for nothing; ``"basic"`` for norms, updates and activations of each layer, for
            the verdict and for pictures by epoch; ``"full"`` for the loss landscape, histograms of
            activations, the graph and the embedding as well.
        every: Steps of the optimiser between two measurements, ≥ 1.
        landscape_every: Gradient noise, cosine and sharpness are part of every such measurement (of
            every tenth for 10), ≥ 1; only with ``full``.
        noise_parts: How many parts a batch is cut into to measure the noise of its gradient, ≥ 2.
        sharpness_iterations: The power iteration makes at most this many iterations.
        health: The thresholds of the verdict's rules.
    """

    name: str = "basic"
    every: int = 20
    landscape_every: int = 10
    noise_parts: int = 8
    sharpness_iterations: int = 30
    health: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if self.name not in ("off", "basic", "full"):
            raise ValueError(f"diagnostics.name={self.name}: must be one of off, basic, full")
        limits = {"every": 1, "landscape_every": 1, "noise_parts": 2, "sharpness_iterations": 1}
        for name, least in limits.items():
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"diagnostics.{name}={value}: must be at least {least}")
