"""The weights that are regularised."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def penalised_weights(network: nn.Module) -> Iterator[nn.Parameter]:
    """The trainable weights of convolutions and linear layers: parameters with two axes or more.

    Biases and the scales of norms only shift and scale; shrinking them does not make the function
    simpler, and is left out as usual (Goodfellow, Bengio & Courville, "Deep Learning", section 7.1).
    """
    return (p for p in network.parameters() if p.requires_grad and p.dim() >= 2)
