"""L2 regularisation, also known as ridge or (coupled) weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnexp.regularization.regularizer import Regularizer
from cnnexp.regularization.weights import penalised_weights


def l2_penalty(weights: Iterable[Tensor]) -> Tensor:
    """½ Σ w² over all elements of ``weights``; its gradient is w. 0 for no weights.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import l2_penalty
        >>> l2_penalty([torch.tensor([3.0, -1.0])]).item()
        5.0
    """
    squares = [weight.square().sum() for weight in weights]
    return torch.stack(squares).sum() / 2 if squares else torch.zeros(())


@dataclass
class L2(Regularizer):
    """Add ``strength`` · ½ Σ w² to the loss, which adds ``strength`` · w to each weight's gradient.

    This is the coupled form: the optimiser sees the term in the gradient, so that adaptive methods
    rescale it (AdamW's decoupled ``weight_decay`` does not). With plain SGD both are the same.

    Args:
        strength: λ ≥ 0; 0 changes nothing, usual values lie between 1e-5 and 1e-2.

    Raises:
        ValueError: ``strength`` is negative.

    Source: Goodfellow, Bengio & Courville, "Deep Learning" (2016), section 7.1.1; Loshchilov &
    Hutter, "Decoupled Weight Decay Regularization" (2019), for coupled against decoupled.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import L2
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer.weight.data = torch.tensor([[3.0, -1.0]])
        >>> L2(0.5).penalty(layer).item()  # 0.5 · ½ · (9 + 1)
        2.5
    """

    name = "l2"

    strength: float

    def __post_init__(self) -> None:
        self.require(self.strength >= 0, "strength", "at least 0")

    def penalty(self, network: nn.Module) -> Tensor:
        """``strength`` · ½ Σ w² of ``network``, a scalar."""
        return self.strength * l2_penalty(penalised_weights(network))
