"""What is unusual about a network before its first step: what it gets, what it gives, what is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp.diagnostics.layers import TracedLayer, is_of
from cnnexp.nn import left_as_found

# functions that give the numbers that they get, by autograd's names
_SAME_NUMBERS = ("view", "unsafeview", "reshape", "squeeze", "tocopy", "clone", "alias")


def network_facts(
    network: nn.Module, layers: Sequence[TracedLayer], images: Tensor
) -> dict[str, Any]:
    """Facts of an untrained network; it is left as it was found, random states included.

    Args:
        network: Run twice, in evaluation mode.
        layers: Its layers, from :func:`cnnexp.diagnostics.trace_layers`.
        images: (N, C, H, W) training images as the network gets them, N ≥ 2.

    Returns:
        ``input_mean``, ``input_std``: of what the first layer with weights gets; ``outputs``: the kind of
        the outputs, see :func:`output_kind`; ``random``: whether two evaluations of the same images
        differ; ``frozen``: the share of parameters that do not train; ``frozen_layers``: their layers;
        ``constant_layers``: layers whose weights are all equal; ``dropout``: the greatest probability;
        ``batch_norm``: whether it has batch normalisation.
    """
    taken: list[Tensor] = []

    def look(_module: nn.Module, inputs: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            taken.append(inputs[0].detach().float())

    with left_as_found(network), torch.enable_grad():
        if layers:
            layers[0].module.register_forward_pre_hook(look)
        network.eval()
        outputs = network(images)
        with torch.no_grad():
            again = network(images)
    first = taken[0] if taken else images.float()
    parameters = list(network.parameters())
    total = sum(p.numel() for p in parameters)
    still = sum(p.numel() for p in parameters if not p.requires_grad)
    return {
        "input_mean": float(first.mean()),
        "input_std": float(first.std(correction=0)),
        "outputs": output_kind(outputs),
        "random": not torch.equal(outputs, again),
        "frozen": still / max(total, 1),
        "frozen_layers": [x.name for x in layers if not x.parameter.requires_grad],
        "constant_layers": [x.name for x in layers if _constant(x.weight)],
        "dropout": max((m.p for m in network.modules() if isinstance(m, nn.Dropout)), default=0.0),
        "batch_norm": any(is_of(m, "batchnorm") for m in network.modules()),
    }


def output_kind(outputs: Tensor) -> str:
    """What the outputs (N, C) of a network are, by their numbers and the function that they come from.

    Returns:
        ``"probabilities"`` if the rows sum to 1 and none is below 0; ``"sigmoid"``, ``"tanh"``, ``"relu"`` if
        that function was the last one (but for a change of shape or dtype); ``"within 0 and 1"`` if all are,
        maybe by chance; ``"logits"`` for all else.
    """
    last, outputs = _last_function(outputs), outputs.detach().float()
    if outputs.dim() != 2 or outputs.size(1) < 2:
        return "logits"
    ones = torch.ones(len(outputs), device=outputs.device)
    if float(outputs.min()) >= 0 and torch.allclose(outputs.sum(1), ones, atol=1e-2):
        return "probabilities"
    if last in ("sigmoid", "tanh", "relu"):
        return last
    inside = float(outputs.max()) <= 1 and float(outputs.min()) > 0
    return "within 0 and 1" if inside else "logits"


def _last_function(outputs: Tensor) -> str:
    """The name of the function that ``outputs`` come from, in lower case; "" where autograd kept none."""
    node: Any = outputs.grad_fn
    while node is not None:
        name = node.name().partition("Backward")[0].lower()
        if name not in _SAME_NUMBERS:
            return name
        node = node.next_functions[0][0] if node.next_functions else None
    return ""


def _constant(weight: Tensor) -> bool:
    return weight.numel() > 1 and bool(weight.detach().max() == weight.detach().min())
