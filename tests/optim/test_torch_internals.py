"""Each use of torch's private interface by the optimisers does what its public class does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnexp.optim.torch_internals import (
    lost_by_copies_of_lbfgs,
    move_by_adagrad,
    move_by_adam,
    move_by_sgd,
    whole_step,
)

KERNELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "Adagrad": (lambda *of: move_by_adagrad(*of), torch.optim.Adagrad, {}),
    "Adam": (lambda *of: move_by_adam(*of), torch.optim.Adam, {"amsgrad": True}),
    "AdamW": (lambda *of: move_by_adam(*of), torch.optim.AdamW, {}),
    "SGD": (lambda *of: move_by_sgd(*of), torch.optim.SGD, {"momentum": 0.9}),
}


@pytest.mark.parametrize("kind", KERNELS)
def test_each_kernel_moves_weights_and_state_as_the_class_does(kind: str) -> None:
    kernel, class_of_torch, options = KERNELS[kind]
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = class_of_torch([weight], lr=0.1, weight_decay=0.1, fused=True, **options)
    weight.grad = torch.tensor([3.0, 0.5])
    optimizer.step()
    own: dict[str, list[Tensor]] = {n: [v.clone()] for n, v in optimizer.state[weight].items()}
    moved = weight.detach().clone()
    optimizer.step()
    for count in own.get("step", []):
        count += 1
    kernel(optimizer.param_groups[0], [moved], [weight.grad], own)
    assert torch.equal(moved, weight)
    for name, value in optimizer.state[weight].items():
        assert torch.equal(own[name][0], value)


def test_what_copies_of_lbfgs_lack() -> None:
    weights = [nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.LBFGS(weights)
    lost = lost_by_copies_of_lbfgs(optimizer)
    assert not lost.keys() & optimizer.__getstate__().keys()
    assert any(value == weights for value in lost.values())


def test_the_whole_step_has_no_hooks() -> None:
    weight, calls = nn.Parameter(torch.ones(1)), []
    optimizer = torch.optim.SGD([weight], lr=1.0)  # torch wraps the method of the class in hooks
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    weight.grad = torch.ones(1)
    whole_step(torch.optim.SGD)(optimizer)
    assert (weight.item(), calls) == (0.0, [])
    optimizer.step()
    assert (weight.item(), calls) == (-1.0, [1])
