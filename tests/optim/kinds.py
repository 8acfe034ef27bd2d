"""Optimisers of torch's that have one kernel for all weights, with weights and gradients for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from cnnexp.ops.torch_internals import watching

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Adam": ("Adam", {}),
    "Adam, all options": (
        "Adam",
        {"betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True, "maximize": True},
    ),
    "AdamW": ("AdamW", {}),
    "AdamW, amsgrad": ("AdamW", {"amsgrad": True, "weight_decay": 0.3}),
    "Adagrad": (
        "Adagrad",
        {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    "SGD": ("SGD", {}),
    "SGD, momentum": ("SGD", {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}),
    "SGD, Nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
LAST = torch.channels_last


def new_weights(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 3, 5, 5), (6, 4, 1, 1), (1, 6, 3, 3), (7,), ()
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return [nn.Parameter(each.to(memory_format=LAST) if each.dim() == 4 else each) for each in made]


def make_optimizer(module: Any, kind: str, weights: list[nn.Parameter], **more: Any) -> Optimizer:
    """Two groups, as the weights with and without decay are."""
    name, options = KINDS[kind]
    groups = [{"params": weights[:3]}, {"params": weights[3:], "weight_decay": 0.0, "lr": 0.02}]
    return getattr(module, name)(groups, lr=0.1, fused=True, **{**options, **more})


def draw(weights: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        grad = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        weight.grad = torch.empty_like(weight).copy_(grad)


def _operators(call: Callable[[], object]) -> list[str]:
    """The names of the operators that ``call`` runs."""
    seen: list[str] = []
    with watching(lambda operation: seen.append(str(operation))):
        call()
    return seen


def is_quick(optimizer: Optimizer) -> bool:
    """Take a step, and say whether it was taken without looking everything up: torch's counts one by one."""
    if isinstance(optimizer, torch.optim.SGD):  # which does not count
        left = getattr(optimizer, "_left")  # noqa: B009
        optimizer.step()
        return left is not None and getattr(optimizer, "_left") is left  # noqa: B009
    seen = _operators(optimizer.step)
    assert any("_fused_" in name for name in seen)
    return not any("_foreach_add_" in name for name in seen)
