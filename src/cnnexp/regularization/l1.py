"""L1 regularisation, also known as the lasso."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnexp.regularization.regularizer import Regularizer
from cnnexp.regularization.weights import penalised_weights


def l1_penalty(weights: Iterable[Tensor]) -> Tensor:
    """Σ |w| over all elements of ``weights``; its gradient is sign(w), 0 at 0. 0 for no weights.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import l1_penalty
        >>> l1_penalty([torch.tensor([3.0, -1.0])]).item()
        4.0
    """
    sums = [weight.abs().sum() for weight in weights]
    return torch.stack(sums).sum() if sums else torch.zeros(())


@dataclass
class L1(Regularizer):
    """Add ``strength`` · Σ |w| to the loss, which pulls each weight towards 0 by the same amount.

    Under a gradient method weights come near 0 and change sign around it; they do not stay there.

    Args:
        strength: λ ≥ 0; 0 changes nothing, usual values lie between 1e-6 and 1e-4.

    Raises:
        ValueError: ``strength`` is negative.

    Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso" (1996); Goodfellow,
    Bengio & Courville, "Deep Learning" (2016), section 7.1.2.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import L1
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer.weight.data = torch.tensor([[3.0, -1.0]])
        >>> L1(0.5).penalty(layer).item()  # 0.5 · (3 + 1)
        2.0
    """

    name = "l1"

    strength: float

    def __post_init__(self) -> None:
        self.require(self.strength >= 0, "strength", "at least 0")

    def penalty(self, network: nn.Module) -> Tensor:
        """``strength`` · Σ |w| of ``network``, a scalar."""
        return self.strength * l1_penalty(penalised_weights(network))
