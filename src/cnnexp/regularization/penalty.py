"""What a penalty is: a term that is added to the loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn

__all__ = ["Penalty", "penalised_weights"]


class Penalty(Protocol):
    """A term that is added to the training loss, its share logged as ``train/penalty/<name>``."""

    name: str

    def __call__(self, network: nn.Module) -> Tensor:
        """The term, a scalar, for the network's present weights."""
        ...


def penalised_weights(network: nn.Module) -> Iterator[nn.Parameter]:
    """The trainable weights of convolutions and linear layers: parameters with two axes or more.

    Biases and the scales of norms only shift and scale; shrinking them does not make the function
    simpler, and is left out as usual (Goodfellow, Bengio & Courville, "Deep Learning", section 7.1).
    """
    return (p for p in network.parameters() if p.requires_grad and p.dim() >= 2)
