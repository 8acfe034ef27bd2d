"""Early stopping: no more epochs once validation has ceased to get better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback

from cnnexp.regularization.regularizer import Regularizer


@dataclass
class EarlyStopping(Regularizer):
    """Stop when ``checkpoint.monitor`` has not become better for ``patience`` validations.

    Args:
        patience: Validations ≥ 0 that it may last.
        min_delta: What counts as better, ≥ 0.

    Raises:
        ValueError: A range is violated.

    Source: Prechelt, "Early Stopping – But When?" (1998).
    """

    name = "early_stopping"
    order = 1  # an average of the weights is there before validation is looked at

    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        self.require(self.patience >= 0, "patience", "at least 0")
        self.require(0 <= self.min_delta < math.inf, "min_delta", "at least 0 and finite")

    def callbacks(self, monitor: str, mode: str) -> Sequence[Callback]:
        """Lightning's own; what is not finite is left to ``on_nan``."""
        return [
            callbacks.EarlyStopping(
                monitor, self.min_delta, self.patience, mode=mode, check_finite=False
            )
        ]
