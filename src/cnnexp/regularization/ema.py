"""EMA: an exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L
from lightning.pytorch.callbacks import Callback

from cnnexp.regularization.regularizer import Regularizer
from cnnexp.regularization.weight_average import WeightAverage


@dataclass
class EMA(Regularizer):
    """Validate, keep and test an exponential moving average of the weights.

    Args:
        decay: d in (0, 1), see :class:`ExponentialAverage`; 0.999 is usual.

    Raises:
        ValueError: ``decay`` is out of range.
    """

    name = "ema"
    sole = "replace the weights"
    whole_weights = True

    decay: float

    def __post_init__(self) -> None:
        ExponentialAverage(self.decay)  # refuses a value out of range

    def callbacks(self, monitor: str, mode: str) -> Sequence[Callback]:
        """The one that keeps the average."""
        return [ExponentialAverage(self.decay)]


class ExponentialAverage(WeightAverage):
    """After each step of the optimiser: average ← d·average + (1 − d)·weights.

    d grows from a small number to ``decay`` as min(decay, (1 + t)/(10 + t)), so that the first
    weights are soon forgotten.

    Args:
        decay: In (0, 1).

    Raises:
        ValueError: ``decay`` is out of range.

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992);
    Tarvainen & Valpola, "Mean teachers are better role models" (2017).
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"regularization.ema.decay must be between 0 and 1, but got {decay}")
        self.decay, self._step = decay, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from the step that a resumed training continues from."""
        self._step = trainer.global_step

    def share(self) -> float:
        """The share 1 − d of the present weights."""
        return 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))

    def due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """Whether the optimiser has made a step since the last batch."""
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        return stepped
