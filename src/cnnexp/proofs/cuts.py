"""The inside of a call: whether its backward leaves autograd's graph, and whether it draws random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnexp.ops.torch_internals import watching
from cnnexp.proofs.calls import Call
from cnnexp.proofs.gradients import Sent
from cnnexp.proofs.measures import can_require_grad


def cut_in(call: Call, sent: Sent) -> str | None:
    """The operation in the backward of ``call`` that autograd cannot follow, in words; None if
    there is none.
    """
    run = call.run()
    forward = set(_nodes(sent.outputs(run)))
    for node in forward:
        if isinstance(node, torch.autograd.function.BackwardCFunction) and _saved_loose(node):
            return "a value that forward computed and saved, which is neither input nor output"
    weights = [w.clone().requires_grad_() for w in sent.weights]
    watch = _Watch()
    with watching(watch.see):
        found = torch.autograd.grad(
            sent.outputs(run), run.leaves, weights, allow_unused=True, create_graph=True
        )
    if watch.detached:
        return watch.detached
    # a Function that the backward calls runs its own forward under no_grad, which is right
    inner = set(_nodes([t for t in found if t is not None])) - forward
    if any(isinstance(node, torch.autograd.function.BackwardCFunction) for node in inner):
        return None
    return "values computed under no_grad" if watch.without_grad else None


def draws(call: Call) -> bool:
    """Whether the call draws random numbers from torch."""
    watch = _Watch()
    with watching(watch.see):
        call.run()
    return watch.random


class _Watch:
    def __init__(self) -> None:
        self.detached: str | None = None
        self.without_grad = self.random = False

    def see(self, operation: Any) -> None:
        name = operation.overloadpacket.__name__
        self.random |= torch.Tag.nondeterministic_seeded in operation.tags
        if name == "detach":
            self.detached = "detached values (.detach(), .data, numpy)"
        elif name == "_local_scalar_dense":
            self.detached = (
                self.detached or "plain numbers (.item(), float(), a loop over elements)"
            )
        elif not torch.is_grad_enabled():
            self.without_grad = True


def reached(outputs: Sequence[Tensor]) -> list[Tensor]:
    """The leaves that a backward from ``outputs`` reaches."""
    leaves = [getattr(node, "variable", None) for node in _nodes(outputs)]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _nodes(outputs: Sequence[Tensor]) -> Iterator[Any]:
    seen: set[Any] = set()
    todo = [t.grad_fn for t in outputs if t.grad_fn is not None]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        todo += [following for following, _ in node.next_functions if following is not None]


def _saved_loose(node: Any) -> bool:
    """Whether a Function saved a floating-point tensor that the graph does not track."""
    try:
        kept = [*node.saved_tensors, *vars(node).values()]
    except (RuntimeError, TypeError):
        return False
    loose = (t for t in kept if isinstance(t, Tensor) and not t.requires_grad)
    return any(map(can_require_grad, loose))
