"""One training step of any network, and all that it brings forth, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Case", "Results", "buffers", "gradients", "loss_of", "step", "tensors"]

Results = dict[str, Tensor]


class Case(NamedTuple):
    """What a habit is given.

    Attributes:
        network: The network in the way under test; in the comparison of torch's own layers.
        twin: The same network of torch's own layers, with the same state.
        images: (N, 3, H, W).
    """

    network: nn.Module
    twin: nn.Module
    images: Tensor


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors of a network's output: of one, of a tuple, of a dict."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif output is not None:
        for value in output:
            yield from tensors(value)


def loss_of(output: Any) -> Tensor:
    """A number to which every element of the output contributes in its own way."""
    parts = []
    for tensor in tensors(output):
        wide = tensor if tensor.dtype == torch.float64 else tensor.float()
        weights = torch.arange(wide.numel(), dtype=wide.dtype).cos().reshape(wide.shape)
        parts.append((wide * weights).mean() + wide.square().mean())
    return torch.stack(parts).sum()


def step(
    network: Callable[[Tensor], Any],
    images: Tensor,
    module: nn.Module | None = None,
    *,
    image_grad: bool = True,
) -> Results:
    """Outputs, ∂L/∂x, all parameters' gradients and the buffers after one forward and backward.

    Args:
        network: What is called.
        images: (N, 3, H, W).
        module: What has the parameters, where it is not ``network``.
        image_grad: Whether ∂L/∂x is wanted.
    """
    torch.manual_seed(3)  # dropout and stochastic depth draw
    images = images.detach().clone().requires_grad_(image_grad)
    output = network(images)
    loss_of(output).backward()
    results = outputs(output)
    if images.grad is not None:
        results["∂L/∂x"] = images.grad
    owner = module if module is not None else network
    assert isinstance(owner, nn.Module)
    return {**results, **gradients(owner), **buffers(owner)}


def outputs(output: Any) -> Results:
    """The tensors of a network's output, by their number."""
    return {f"output {i}": t.detach().clone() for i, t in enumerate(tensors(output))}


def gradients(network: nn.Module) -> Results:
    """The gradients that the parameters of ``network`` have."""
    return {
        f"∂L/∂{name}": parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def buffers(network: nn.Module) -> Results:
    """Running statistics and counters, as they are now."""
    return {name: tensor.detach().clone() for name, tensor in network.named_buffers()}
