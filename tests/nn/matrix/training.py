"""Habits of training: steps, layouts, results changed in place, memory, which layers learn."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.nn.matrix.habit import HABITS, Habit, habit
from tests.nn.matrix.steps import Case, Results, buffers, gradients, loss_of, outputs, step


@habit("step")
def _step(case: Case) -> Results:
    return step(case.network, case.images)


@habit("eval step")
def _eval_step(case: Case) -> Results:
    return step(case.network.eval(), case.images)


@habit("two steps")
def _two_steps(case: Case) -> Results:
    """Accumulated gradients, momentum, and a second step on the new parameters."""
    optimizer = torch.optim.SGD(case.network.parameters(), lr=1e-3, momentum=0.9)
    for scale in (1.0, 0.5):
        step(case.network, scale * case.images)
    optimizer.step()
    optimizer.zero_grad()
    return step(case.network, case.images.flip(0))


@habit("inference")
def _inference(case: Case) -> Results:
    """Looked at in evaluation, between two steps of training."""
    before = step(case.network, case.images)
    network, results = case.network.eval(), {}
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            found = outputs(network(case.images))
        results |= {f"{context.__name__} {name}": tensor.clone() for name, tensor in found.items()}
    return {**results, **before, **step(network.train(), case.images)}


@habit("batch of one")
def _one(case: Case) -> Results:
    return step(case.network.eval(), case.images[:1])


@habit("channels_last")
def _channels_last(case: Case) -> Results:
    network = case.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return step(network, case.images.contiguous(memory_format=torch.channels_last))


@habit("strided images")
def _strided(case: Case) -> Results:
    """Images cut out of others, mirrored and turned: no layout that has a name."""
    wide = torch.cat([case.images, case.images.flip(3)], 3)[..., ::2]
    return step(case.network, wide.transpose(2, 3))


# --- results that are changed in place


def _activations_in_place(network: nn.Module) -> None:
    for layer in network.modules():  # Dropout in place after a ReLU is refused by torch
        if hasattr(layer, "inplace") and not isinstance(layer, nn.Dropout):
            layer.inplace = True  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


@habit("activations in place", prepare=_activations_in_place)
def _in_place(case: Case) -> Results:
    return step(case.network, case.images)


_OWNERS = (  # layers whose results torch lets one change: it has not saved them
    *(nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Dropout, nn.GELU),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)


def _add_in_place(layer: nn.Module, inputs: Any, output: Tensor) -> None:
    output += 0.01


def _change_layers(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, _OWNERS):
            layer.register_forward_hook(_add_in_place)


@habit("layers' results changed in place", prepare=_change_layers)
def _changed(case: Case) -> Results:
    return step(case.network, case.images)


@habit("pools' results changed in place")
def _changed_pools(case: Case) -> Results:
    """The hooks come after the conversion: a pooling may be part of a block by then."""
    for name, layer in case.twin.named_modules():
        if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
            case.network.get_submodule(name).register_forward_hook(_add_in_place)
    return step(case.network, case.images)


# --- memory


@habit("checkpoint", measured=True)
def _checkpoint(case: Case, *, use_reentrant: bool = False) -> Results:
    for child in case.network.children():
        if not list(child.children()):
            continue  # torch itself fails where an in-place ReLU is a region of its own
        child.forward = partial(checkpoint, child.forward, use_reentrant=use_reentrant)
    return step(case.network, case.images)


HABITS["reentrant checkpoint"] = Habit(partial(_checkpoint, use_reentrant=True), measured=True)


@habit("checkpoint of the whole", measured=True)
def _checkpoint_whole(case: Case) -> Results:
    call = partial(checkpoint, case.network, use_reentrant=False)
    return step(call, case.images, case.network)


@habit("saved on the CPU")
def _saved(case: Case) -> Results:
    with torch.autograd.graph.save_on_cpu():
        return step(case.network, case.images)


@habit("backward twice")
def _backward_twice(case: Case) -> Results:
    torch.manual_seed(3)
    images = case.images.clone().requires_grad_()
    loss = loss_of(case.network(images))
    loss.backward(retain_graph=True)
    loss.backward()
    assert images.grad is not None
    return {"∂L/∂x": images.grad, **gradients(case.network), **buffers(case.network)}


# --- which layers learn


def _share(network: nn.Module) -> None:
    """Let every second of the layers that are alike be the one before it."""
    seen: dict[Any, nn.Module] = {}
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _OWNERS) or not list(layer.parameters()):
                key = repr(layer) if not list(layer.children()) else id(layer)
                if key in seen:
                    setattr(parent, name, seen.pop(key))
                else:
                    seen[key] = layer


@habit("shared layers", prepare=_share)
def _shared(case: Case) -> Results:
    return step(case.network, case.images)


def _freeze(network: nn.Module, *, every: int = 0) -> None:
    """Freeze each ``every``-th parameter, or by 0 the first half of the network's layers."""
    layers = [layer for layer in network.modules() if not list(layer.children())]
    for layer in layers if every else layers[: len(layers) // 2]:
        for index, parameter in enumerate(layer.parameters(recurse=False)):
            parameter.requires_grad_(bool(every) and (index + len(parameter)) % every != 0)


@habit("frozen half", prepare=_freeze)
def _frozen(case: Case) -> Results:
    """As fine-tuning does it: batch normalisation of the frozen layers stays in evaluation."""
    for layer in case.network.modules():
        if isinstance(layer, nn.BatchNorm2d) and not layer.weight.requires_grad:
            layer.eval()
    return step(case.network, case.images, image_grad=False)


@habit("frozen here and there", prepare=partial(_freeze, every=2))
def _scattered(case: Case) -> Results:
    return step(case.network, case.images)


@habit("only the images")
def _only_images(case: Case) -> Results:
    return step(case.network.requires_grad_(False), case.images)
