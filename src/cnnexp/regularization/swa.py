"""SWA: the mean of the weights at the ends of the last epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L
from lightning.pytorch.callbacks import Callback

from cnnexp.regularization.regularizer import Regularizer
from cnnexp.regularization.weight_average import WeightAverage


@dataclass
class SWA(Regularizer):
    """Validate, keep and test the mean of the weights at the ends of the last epochs.

    Args:
        start: Share of the epochs before the first that counts, in [0, 1), see
            :class:`StochasticWeightAverage`.

    Raises:
        ValueError: ``start`` is out of range.
    """

    name = "swa"
    sole = "replace the weights"
    whole_weights = True
    fixed_length = "averages the last"

    start: float

    def __post_init__(self) -> None:
        StochasticWeightAverage(self.start)  # refuses a value out of range

    def callbacks(self, monitor: str, mode: str) -> Sequence[Callback]:
        """The one that keeps the average."""
        return [StochasticWeightAverage(self.start)]


class StochasticWeightAverage(WeightAverage):
    """From ``start`` of the training on, the mean of the weights at the ends of the epochs.

    Statistics of batch normalisation are averaged as well, not computed anew. Use it with a
    learning rate that stays up to the end, such as ``scheduler=none``.

    Args:
        start: Share of the epochs before the first that counts, in [0, 1).

    Raises:
        ValueError: ``start`` is out of range.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization"
    (2018).
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        if not 0 <= start < 1:
            raise ValueError(f"regularization.swa.start must be in [0, 1), but got {start}")
        self.start = start

    def share(self) -> float:
        """The share 1/n of the n-th epoch that counts, which makes their mean."""
        return 1 / (self.updates + 1)

    def due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        """Whether this was the last step of an epoch that counts: its validation sees the average."""
        last = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        ends = (
            trainer.global_step >= trainer.estimated_stepping_batches
        )  # max_steps, within an epoch
        return (last or ends) and trainer.current_epoch >= round(self.start * _epochs(trainer))


def _epochs(trainer: L.Trainer) -> float:
    """How many epochs the training has, the last one maybe not whole, whatever says so."""
    of_epoch = max(1, -(-trainer.num_training_batches // trainer.accumulate_grad_batches))
    return -(-trainer.estimated_stepping_batches // of_epoch)
