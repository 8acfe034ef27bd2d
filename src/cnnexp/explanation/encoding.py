"""Tensors encoded as text for a page, each once, and as many of a layer's weights as there is room for."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnexp.explanation.trace import Step


class Pool:
    """Numbered tensors; equal tensors have the same number, as a layer's output and the next layer's input.

    Attributes:
        tensors: The shape and the values of each: base64 of float32, little-endian, in row-major order.
    """

    def __init__(self) -> None:
        self.tensors: list[dict[str, Any]] = []
        self._known: dict[tuple[tuple[int, ...], bytes], int] = {}

    def add(self, tensor: Tensor | None) -> int | None:
        """The number of ``tensor``, whatever its dtype; None for None."""
        if tensor is None:
            return None
        values = tensor.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes()
        key = (tuple(tensor.shape), values)
        if key not in self._known:
            self._known[key] = len(self.tensors)
            text = base64.b64encode(values).decode("ascii")
            self.tensors.append({"shape": list(tensor.shape), "data": text})
        return self._known[key]


def chosen_channels(grad: Tensor | None, count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` channels, in order: the first ones and those of the strongest gradient.

    Args:
        grad: (count, …), or None to take the first channels only.
        count: How many channels there are.
        most: How many channels to choose at most, ≥ 1.
    """
    if count <= most:
        return list(range(count))
    chosen = list(range(most if grad is None else most // 2))
    if grad is not None:
        strength = grad.reshape(count, -1).norm(dim=1)
        strongest = strength.argsort(descending=True, stable=True).tolist()
        chosen += [i for i in strongest if i not in chosen][: most - len(chosen)]
    return sorted(chosen)


def packed_weight(step: Step, pool: Pool, room: int) -> dict[str, Any] | None:
    """The weight (C_out, C_in/groups, …) of a convolution or linear layer, with its gradient.

    If it has more than ``room`` numbers, some output and some input channels are chosen, and of these
    everything that the sums over the other axis need: ``rows`` is w[o] for each o in ``outputs``,
    ``columns`` is w[:, c] for each c in ``inputs``, for the outputs in its group. The result is None
    for a layer without a weight.
    """
    weight = step.parameters.get("weight")
    if weight is None or step.input is None or step.grad_output is None:
        return None
    groups = step.settings.get("groups", 1)
    c_out, c_in = weight.size(0), weight.size(1) * groups
    grad = step.gradients["weight"]
    outputs, inputs = list(range(c_out)), list(range(c_in))
    if weight.numel() <= room:
        columns = None
    else:
        each = weight[0, 0].numel() * (2 * weight.size(1) + c_out // groups)
        most = max(2, min(16, room // each))
        outputs = chosen_channels(step.grad_output, c_out, most)
        inputs = chosen_channels(step.grad_input, c_in, most)
        columns = pool.add(_columns(weight, inputs, groups))
    return {
        "rows": pool.add(weight[outputs]),
        "columns": columns,
        "grad": pool.add(grad[outputs]),
        "outputs": outputs,
        "inputs": inputs,
    }


def _columns(weight: Tensor, inputs: Sequence[int], groups: int) -> Tensor:
    """The weights w[:, c] for the group of each input channel c: (inputs, C_out/groups, …)."""
    by_group, per_group = weight.unflatten(0, (groups, -1)), weight.size(1)
    return torch.stack([by_group[c // per_group, :, c % per_group] for c in inputs])
