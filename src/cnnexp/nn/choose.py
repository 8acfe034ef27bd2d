"""Choose the fastest algorithm for every layer of a network, once and for good."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer

__all__ = ["choose_algorithms", "layer_algorithms", "pin_algorithms"]


def choose_algorithms(
    network: nn.Module, images: Tensor, run: Callable[[nn.Module, Tensor], Tensor] | None = None
) -> dict[str, str]:
    """Which algorithm is the fastest for each layer of ``network`` that is set to ``auto``.

    The network itself, its buffers and the random numbers to come stay as they are: a copy is run.

    Args:
        network: As ``replace_layers(network, "auto")`` leaves it.
        images: A batch of the size, dtype, layout and device that the network will be trained on.
        run: Calls network and images; the place for autocast. None for a plain call.

    Returns:
        Names of layers and algorithms, for :func:`pin_algorithms`.
    """
    twin = copy.deepcopy(network).to(images.device).train()
    current, chosen = [""], {}
    for name, layer in twin.named_modules():
        if isinstance(layer, Layer) and layer.algorithm == ops.AUTO:
            layer.register_forward_pre_hook(lambda *_, name=name: current.__setitem__(0, name))

    def record(op: str, algorithm: str) -> None:
        chosen.setdefault(current[0], algorithm)

    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad(), ops.recorded_choices(record):
        twin(images) if run is None else run(twin, images)
    return chosen


def pin_algorithms(network: nn.Module, algorithms: Mapping[str, str]) -> None:
    """Set the layers of ``network`` that stand on ``auto`` to ``algorithms``.

    Raises:
        ValueError: A name is none of those layers, one of them is missing, or its op does not have
            the algorithm; nothing has been changed then.
    """
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, Layer) and layer.algorithm == ops.AUTO
    }
    if set(layers) != set(algorithms):
        raise ValueError(
            f"algorithms are given for the layers {', '.join(sorted(algorithms)) or 'none'}, but the "
            f"network has {', '.join(sorted(layers)) or 'none'}"
        )
    for name, algorithm in algorithms.items():
        ops.get_algorithm(layers[name].op, algorithm)
    for name, algorithm in algorithms.items():
        layers[name].algorithm = algorithm


def layer_algorithms(network: nn.Module) -> dict[str, str]:
    """Names of all layers of ``network`` over ``cnnexp.ops``, and what each computes with."""
    return {
        name: layer.algorithm for name, layer in network.named_modules() if isinstance(layer, Layer)
    }
