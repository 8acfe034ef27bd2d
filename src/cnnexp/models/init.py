"""Initialisation of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INITS = ("default", "he", "xavier", "dirac", "orthogonal", "lsuv")


def initialise(network: nn.Module, scheme: str) -> None:
    """Draw the weights of all convolutions and linear layers anew, and set their biases to 0.

    Args:
        network: The network, changed in place.
        scheme: ``"default"`` leaves torch's weights and biases (uniform, variance 1/(3·fan-in)).
            ``"he"``: normal, variance 2/fan-in, for ReLU. ``"xavier"``: uniform, variance
            2/(fan-in + fan-out), for tanh. ``"dirac"``: convolutions copy their input channels to
            their output channels, up to the smaller number of the two; linear layers as ``he``.
            ``"orthogonal"``: rows that are orthogonal to each other. ``"lsuv"``: as ``orthogonal``,
            to be followed by :func:`lsuv` once there are images; a config does that.

    Raises:
        ValueError: The scheme is unknown.

    Source: He et al., "Delving Deep into Rectifiers" (2015); Glorot & Bengio, "Understanding the
    difficulty of training deep feedforward neural networks" (2010); Zagoruyko & Komodakis,
    "DiracNets" (2017); Saxe et al., "Exact solutions to the nonlinear dynamics" (2014).
    """
    if scheme not in INITS:
        raise ValueError(f"unknown init '{scheme}'; known: {', '.join(INITS)}")
    if scheme == "default":
        return
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if scheme == "xavier":
                nn.init.xavier_uniform_(layer.weight)
            elif scheme in ("orthogonal", "lsuv"):
                nn.init.orthogonal_(layer.weight)
            elif scheme == "dirac" and isinstance(layer, nn.Conv2d):
                nn.init.dirac_(layer.weight, layer.groups)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def lsuv(network: nn.Module, images: Tensor, tolerance: float = 0.02, most: int = 10) -> None:
    """Layer-sequential unit-variance: orthogonal weights, scaled so that each layer's output has variance 1.

    Layer after layer, in the order in which they run, the weights are divided by the standard
    deviation of the layer's output on ``images`` until it is 1.

    Args:
        network: The network, changed in place.
        images: (N, C, H, W), normalised as in training.
        tolerance: The greatest remaining difference of the standard deviation from 1.
        most: At most this many divisions per layer.

    Source: Mishkin & Matas, "All you need is a good init" (2016), algorithm 1.
    """
    initialise(network, "orthogonal")
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    was_training = network.training
    network.eval()
    for layer in layers:
        seen: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
        try:
            for _ in range(most):
                seen.clear()
                network(images)
                deviation = seen[0].std().item() if seen else 1.0
                if deviation == 0 or abs(deviation - 1) <= tolerance:
                    break
                layer.weight.div_(deviation)
        finally:
            hook.remove()
    network.train(was_training)
