"""The values at which the verdict's rules report a trouble."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

_RANGES = {  # all others must be at least 0
    "patience": (1.0, math.inf),
    "epochs": (1.0, math.inf),
    "dead_images": (1.0, math.inf),
    "window": (2.0, math.inf),
    "dead": (0.0, 1.0),
    "gap": (0.0, 1.0),
    "oscillation": (-1.0, 1.0),
    "cosine": (-1.0, 1.0),
}


@dataclass
class Thresholds:
    """The thresholds of the rules in ``cnnexp.diagnostics.rules``.

    The loss at chance is that of a network that finds all classes equally likely, ln(classes) for the
    cross-entropy.

    Attributes:
        patience: How many measurements in a row must agree before a verdict begins or passes.
        epochs: For overfitting, how many epochs in a row must agree.
        vanishing: A gradient vanishes if a layer's ‖∂L/∂a‖ is below this multiple of the last layer's.
        exploding: A gradient explodes if a layer's ‖∂L/∂a‖ is above this multiple of the last layer's.
        growth: A gradient also explodes if ‖∂L/∂θ‖ is above this multiple of its maximum in the first
            five measurements.
        dead: Units are dead if this share of a layer's units gives 0 for every image.
        dead_images: The least number of images of a step from which dead units are judged.
        window: Steps over which losses are averaged.
        oscillation: The loss oscillates if its successive changes have a correlation below this; that of
            pure noise is −0.5.
        amplitude: The least mean size of these changes, as a share of the loss.
        cosine: Steps turn back and forth if the mean cosine between successive gradients is below this.
        high_loss: A loss is high if it is above this share of the loss at chance.
        stuck: The loss stands still if it falls by less than this share over two windows.
        slow: The loss falls slowly, as with a learning rate that is too low, if by less than this share.
        rise: The loss has risen if it is above its best window by this share of the loss at chance.
        low_update: The learning rate is too low if the loss is high and the median ‖ΔW‖/‖W‖ is below
            this.
        high_update: The learning rate is too high if the loss is high, stands still and the median
            ‖ΔW‖/‖W‖ is above this.
        gap: The network overfits if train/acc − val/acc is above this, and ``loss_ratio`` agrees.
        loss_ratio: The network overfits if val/loss is above this multiple of train/loss, and ``gap``
            agrees.
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
            least, most = _RANGES.get(one.name, (0.0, math.inf))
            if not math.isfinite(value):
                allowed = "finite"
            elif most == math.inf:
                allowed = f"at least {least:g}"
            else:
                allowed = f"between {least:g} and {most:g}"
            if not (math.isfinite(value) and least <= value <= most):
                raise ValueError(f"diagnostics.health.{one.name}={value}: must be {allowed}")
