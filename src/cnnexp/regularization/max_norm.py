"""The max-norm constraint: no unit's incoming weights grow beyond a length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cnnexp.regularization.regularizer import Regularizer
from cnnexp.regularization.weights import penalised_weights


@dataclass
class MaxNorm(Regularizer):
    """After each step, shorten the weights of every unit that are longer than ``limit``.

    A unit is a row of a linear layer or an output channel of a convolution: w[o], with the
    Euclidean norm over all its other axes. Directions stay, biases are left out.

    Args:
        limit: The greatest norm c > 0; usual values lie between 1 and 4.

    Raises:
        ValueError: ``limit`` is not positive.

    Source: Srebro & Shraibman, "Rank, Trace-Norm and Max-Norm" (2005); Srivastava et al., "Dropout"
    (2014), section 5.1, for its use with dropout.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import MaxNorm
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer.weight.data = torch.tensor([[6.0, 8.0]])
        >>> MaxNorm(5.0).weights(layer)
        >>> layer.weight.tolist()
        [[3.0, 4.0]]
    """

    name = "max_norm"

    limit: float

    def __post_init__(self) -> None:
        self.require(self.limit > 0, "limit", "above 0")

    @torch.no_grad()
    def weights(self, network: nn.Module) -> None:
        """Bring ``network``'s weights back within the limit, in place."""
        for weight in penalised_weights(network):
            axes = tuple(range(1, weight.dim()))
            norms = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
            weight.mul_((self.limit / norms.clamp(min=1e-12)).clamp(max=1.0))
