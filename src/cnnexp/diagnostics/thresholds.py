"""Where the verdict's rules begin to speak."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

__all__ = ["Thresholds"]


_RANGES = {  # the others are not negative
    "dead": (0.0, 1.0),
    "gap": (0.0, 1.0),
    "oscillation": (-1.0, 1.0),
    "cosine": (-1.0, 1.0),
}


@dataclass
class Thresholds:
    """Of the rules in ``cnnexp.diagnostics.rules``.

    The loss at chance is ln(classes), that of a network that finds all classes equally likely.

    Attributes:
        patience: Measurements in a row that must agree before a verdict turns, there or back.
        epochs: The same for overfitting, in epochs.
        vanishing: A layer's ‖∂L/∂a‖ as a share of the last layer's, below which it vanishes.
        exploding: The same ratio, above which it explodes.
        growth: ‖∂L/∂θ‖ as a multiple of its greatest in the first five measurements, likewise.
        dead: Share of a layer's units that give 0 for every image.
        dead_images: That a step must be by for that to say something.
        window: Steps over which losses are averaged.
        oscillation: Correlation of successive changes of the loss, below which it oscillates; that of
            pure noise is −0.5.
        amplitude: Of these changes, as a share of the loss.
        cosine: Mean cosine between successive gradients, below which the steps turn back and forth.
        high_loss: Share of the loss at chance, above which the network has learnt next to nothing.
        stuck: Fall of the loss over two windows, as a share of it, below which it stands still.
        slow: The same for a learning rate that is too low.
        rise: Of the loss above its best window, as a share of the loss at chance, that says that the
            training goes up.
        low_update: Median ‖ΔW‖/‖W‖ below which the learning rate is too low for a loss that is high.
        high_update: The same, above which it is too high.
        gap: train/acc − val/acc from which on the network overfits.
        loss_ratio: val/loss as a multiple of train/loss, from which on it does.
    """

    patience: int = 3
    epochs: int = 2
    vanishing: float = 1e-4
    exploding: float = 1e4
    growth: float = 100.0
    dead: float = 0.5
    dead_images: int = 32
    window: int = 100
    oscillation: float = -0.8
    amplitude: float = 0.01
    cosine: float = -0.5
    high_loss: float = 0.7
    stuck: float = 0.02
    slow: float = 0.1
    rise: float = 0.2
    low_update: float = 1e-4
    high_update: float = 0.1
    gap: float = 0.03
    loss_ratio: float = 2.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not math.isfinite(value):
                raise ValueError(f"diagnostics.health.{one.name}={value}: must be finite")
        for name, least in {"patience": 1, "epochs": 1, "dead_images": 1, "window": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"diagnostics.health.{name}={getattr(self, name)}: must be at least {least}"
                )
        for one in fields(self):
            least, most = _RANGES.get(one.name, (0.0, math.inf))
            if not least <= getattr(self, one.name) <= most:
                value = getattr(self, one.name)
                raise ValueError(
                    f"diagnostics.health.{one.name}={value}: must be between {least:g} and {most:g}"
                )
