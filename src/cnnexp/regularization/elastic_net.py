"""The elastic net: L1 and L2 together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cnnexp.regularization.l1 import l1_penalty
from cnnexp.regularization.l2 import l2_penalty
from cnnexp.regularization.regularizer import Regularizer
from cnnexp.regularization.weights import penalised_weights


@dataclass
class ElasticNet(Regularizer):
    """Add ``strength`` · (r · Σ |w| + (1 − r) · ½ Σ w²) to the loss, r = ``l1_ratio``.

    Args:
        strength: λ ≥ 0; 0 changes nothing.
        l1_ratio: r in [0, 1]; 0 is L2 alone, 1 is L1 alone.

    Raises:
        ValueError: A range is violated.

    Source: Zou & Hastie, "Regularization and variable selection via the elastic net" (2005), with
    the factors as scikit-learn has them.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import ElasticNet
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer.weight.data = torch.tensor([[3.0, -1.0]])
        >>> ElasticNet(1.0, l1_ratio=0.5).penalty(layer).item()  # ½ · 4 + ½ · 5
        4.5
    """

    name = "elastic_net"
    order = 1  # after l1 and l2, as runs of 0.1.0 summed the terms

    strength: float
    l1_ratio: float = 0.5

    def __post_init__(self) -> None:
        self.require(self.strength >= 0, "strength", "at least 0")
        self.require(0 <= self.l1_ratio <= 1, "l1_ratio", "between 0 and 1")

    def penalty(self, network: nn.Module) -> Tensor:
        """The term for ``network``, a scalar."""
        weights = list(penalised_weights(network))
        both = self.l1_ratio * l1_penalty(weights) + (1 - self.l1_ratio) * l2_penalty(weights)
        return self.strength * both
