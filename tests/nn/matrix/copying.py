"""Habits of copying: states, pickles, and layers that carry something."""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.nn.matrix.habit import habit
from tests.nn.matrix.steps import Case, Results, buffers, step


@habit("deepcopy")
def _deepcopy(case: Case) -> Results:
    """Of a network that has been used: its copy goes on, it stays as it is."""
    step(case.network, case.images)
    made = copy.deepcopy(case.network)
    made.zero_grad()
    results = step(made, case.images)
    return {**results, **{f"original {k}": v for k, v in buffers(case.network).items()}}


@habit("pickle")
def _pickle(case: Case) -> Results:
    file = io.BytesIO()
    torch.save(pickle.loads(pickle.dumps(case.network)), file)
    file.seek(0)
    return step(torch.load(file, weights_only=False), case.images)


@habit("state dict there and back")
def _state(case: Case) -> Results:
    """A trained state goes to torch's network, is trained there, and comes back."""
    step(case.network, case.images)
    file = io.BytesIO()
    torch.save(case.network.state_dict(), file)
    file.seek(0)
    case.twin.load_state_dict(torch.load(file, weights_only=True))
    step(case.twin, case.images)
    case.network.load_state_dict(case.twin.state_dict(), assign=True)
    case.network.zero_grad()
    return step(case.network, case.images)


def _normalise_weights(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.utils.parametrizations.weight_norm(layer)


@habit("parametrised before", prepare=_normalise_weights)
def _parametrised_before(case: Case) -> Results:
    return step(case.network, case.images)


@habit("parametrised after")
def _parametrised_after(case: Case) -> Results:
    _normalise_weights(case.network)
    return step(case.network, case.images)


@habit("pruned")
def _pruned(case: Case) -> Results:
    for layer in list(case.network.modules()):
        if isinstance(layer, nn.Conv2d):
            prune.l1_unstructured(layer, "weight", 0.3)
    return step(case.network, case.images)


def _no_activations_in_place(network: nn.Module) -> None:
    for layer in network.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


@habit("hooks", prepare=_no_activations_in_place)
def _hooks(case: Case) -> Results:
    """Forward and backward hooks look at every layer, in the order in which they are called."""
    seen: Results = {}

    def forward(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen[f"forward {name}"] = output.detach().clone()

    def backward(name: str, layer: nn.Module, grad_input: Any, grad_output: Any) -> None:
        seen[f"backward {name}"] = grad_output[0].clone()

    for name, layer in case.network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.MaxPool2d)):
            layer.register_forward_hook(partial(forward, name))
            layer.register_full_backward_hook(partial(backward, name))
    before = step(case.network, case.images)
    return {**before, **{k: v for k, v in seen.items() if k.split()[-1] in _own_outputs(case)}}


def _own_outputs(case: Case) -> set[str]:
    """Names of the layers that have outputs of their own in every way: not parts of a block."""
    blocks = {name for name, layer in case.twin.named_modules() if isinstance(layer, nn.Sequential)}
    return {name for name, _ in case.twin.named_modules() if name.rpartition(".")[0] not in blocks}
