"""The gradient of each sample, its norm, and the samples whose norms are the largest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from cnnexp.nn.per_sample.calls import Call
from cnnexp.nn.per_sample.one_pass import Loss, passed
from cnnexp.nn.per_sample.units import units_of
from cnnexp.nn.per_sample.watch import watched_layers
from cnnexp.ops.precision import whole_float32

__all__ = [
    "LargestGradients",
    "largest_gradients",
    "per_sample_gradients",
    "per_sample_norms",
]


class LargestGradients(NamedTuple):
    """The samples that pull the weights hardest, the hardest first.

    Attributes:
        norms: ‖g_n‖, (K,) in float64.
        indices: n, which sample of the batch each is, (K,).
    """

    norms: Tensor
    indices: Tensor


def per_sample_gradients(
    network: nn.Module, loss: Loss, batch: Sequence[Tensor]
) -> dict[str, Tensor]:
    r"""The gradient g_n = ∂ℓ_n/∂w of each sample's own loss, by the parameters' names: (N, \*shape).

    One forward and backward pass of the whole batch is made; from what reaches the layers, their own formulas
    give g_n. It is what ``torch.func.vmap(grad(…))`` computes. A layer in several places, and a weight that
    layers share, get the sum over their uses; a layer that the loss does not need gets zeros.

    Args:
        network: Maps inputs (N, …) to an output (N, …), each sample by itself. Its ``.grad`` stay as they
            are. Layers without a formula of their own (all but Linear, Conv2d, ConvReLUPool, GroupNorm,
            LayerNorm and batch normalisations in evaluation mode) are passed to ``torch.func``. A network
            that mixes samples otherwise than by a batch normalisation is not noticed.
        loss: Maps output and target of one sample, (1, …) each, to its loss: ``F.cross_entropy``,
            ``nn.MSELoss()``, a function of yours. Its reduction does not matter.
        batch: ``(inputs, targets)``, tensors of N ≥ 0 samples each; more than one input is possible.

    Raises:
        PerSampleError: A batch normalisation in training mode mixes the samples; a parameter is used outside
            of its layer; a layer gives more than one tensor, or has another first dimension than the samples.

    Source: Goodfellow, "Efficient Per-Example Gradient Computations" (2015).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 1)
        >>> _ = nn.init.ones_(network.weight)
        >>> per_sample_gradients(network, nn.MSELoss(), (x, y))["weight"].tolist()  # 2·(w·x)·x
        [[[6.0, 12.0]], [[42.0, 56.0]]]
    """
    calls, samples = passed(network, loss, batch)
    with torch.no_grad(), whole_float32():
        found = {p: g.to(p) for unit in units_of(calls) for p, g in unit.per_sample().items()}
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return {name: found.get(p, p.new_zeros(samples, *p.shape)) for name, p in trained.items()}


@overload
def per_sample_norms(
    network: nn.Module, loss: Loss, batch: Sequence[Tensor], *, by_layer: Literal[False] = False
) -> Tensor: ...


@overload
def per_sample_norms(
    network: nn.Module, loss: Loss, batch: Sequence[Tensor], *, by_layer: Literal[True]
) -> dict[str, Tensor]: ...


def per_sample_norms(
    network: nn.Module, loss: Loss, batch: Sequence[Tensor], *, by_layer: bool = False
) -> Tensor | dict[str, Tensor]:
    """The norm ‖g_n‖ of each sample's gradient, without the gradients: (N,) in float64.

    Args:
        network: As of :func:`per_sample_gradients`, as are the other two.
        loss: Of one sample.
        batch: ``(inputs, targets)``.
        by_layer: Give the norm over each layer's parameters, by the layer's name; layers that share a weight
            have one norm, under both names with + between them.

    Raises:
        PerSampleError: As :func:`per_sample_gradients`.
    """
    calls, samples = passed(network, loss, batch)
    squares = squares_by_layer(network, calls, samples)
    if by_layer:
        return {name: square.sqrt() for name, square in squares.items()}
    none = torch.zeros(samples, dtype=torch.float64)
    return torch.stack([*squares.values()]).sum(0).sqrt() if squares else none


def squares_by_layer(network: nn.Module, calls: Sequence[Call], samples: int) -> dict[str, Tensor]:
    """‖g_n‖² by layer, each (N,) float64; zeros for a layer that the loss does not need."""
    with torch.no_grad(), whole_float32():
        found = {unit.name: unit.squared_norms() for unit in units_of(calls)}
    seen = {name for names in found for name in names.split("+")}
    like = next(iter(found.values()), torch.zeros(samples, dtype=torch.float64))
    unused = {name: torch.zeros_like(like) for name in watched_layers(network) if name not in seen}
    return found | unused


def largest_gradients(
    network: nn.Module, loss: Loss, batch: Sequence[Tensor], count: int = 16
) -> LargestGradients:
    """The ``count`` samples whose gradients are the largest, or all if there are fewer.

    Args:
        network: As of :func:`per_sample_gradients`, as are the next two.
        loss: Of one sample.
        batch: ``(inputs, targets)``.
        count: At least 1.

    Raises:
        ValueError: ``count`` is less than 1.
        PerSampleError: As :func:`per_sample_gradients`.
    """
    if count < 1:
        raise ValueError(f"count={count}: must be at least 1")
    norms = per_sample_norms(network, loss, batch)
    order = norms.argsort(descending=True, stable=True)[:count]
    return LargestGradients(norms[order], order)
