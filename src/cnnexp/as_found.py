"""Run a network that belongs to somebody else and restore it afterwards, without copying it."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_CONTAINERS = (dict, OrderedDict, defaultdict, list, deque, set)
_Restore = Callable[[], object]


@contextmanager
def left_as_found(network: nn.Module) -> Iterator[Callable[[], None]]:
    """Restore ``network`` after the context, inside which it may be run, moved and converted.

    The context's value is a function that restores it at once, except for the random states, so that it can
    be run again as if for the first time.

    For every module these are restored: its class and its attributes (parameters, buffers, submodules,
    hooks, training flags, counters), and the contents of lists, dictionaries and sets among them. For
    every tensor found there, and for its ``.grad``, these are: memory, device, dtype, values and
    ``requires_grad``. The random states of torch, numpy and Python are restored, too. Only the values of
    tensors are copied. Changes inside objects of other kinds (a file, a lock, an object of a user's
    own class) stay. References to a parameter's gradient that another object holds, as
    ``DistributedDataParallel`` does, do not survive a conversion: convert before wrapping.
    """
    found: dict[int, tuple[Any, _Restore]] = {}  # the objects themselves, so that no id is reused
    for each in (network, *network.parameters(), *network.buffers()):  # torch.jit hides some
        _look(each, found)
    modes = [(module, module.training) for module in network.modules()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    python, numpy = random.getstate(), np.random.get_state()

    def restore_all() -> None:
        with torch.no_grad():
            for _, restore in found.values():
                restore()
            for module, training in modes:
                if module.training != training:
                    module.training = training

    try:
        with torch.random.fork_rng(devices):
            yield restore_all
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        restore_all()


def _look(value: Any, found: dict[int, tuple[Any, _Restore]]) -> None:
    """Record in ``found`` how to restore ``value`` and everything that it holds."""
    if id(value) in found:
        return
    inside: list[Any] = []
    if isinstance(value, Tensor):
        restore, inside = _tensor(value)
    elif isinstance(value, nn.Module):
        attributes = dict(vars(value))
        restore, inside = partial(_module, value, type(value), attributes), [*attributes.values()]
    elif type(value) in _CONTAINERS:
        restore, inside = partial(_refill, value, copy.copy(value)), _parts(value)
    elif type(value) is tuple:
        restore, inside = (lambda: None), list(value)
    elif isinstance(value, torch.Generator):
        restore = partial(value.set_state, value.get_state())
    else:
        return
    found[id(value)] = (value, restore)
    for each in inside:
        _look(each, found)


def _tensor(value: Tensor) -> tuple[_Restore, list[Any]]:
    # shares the memory, and writing into it does not disturb a graph that has kept the tensor
    memory = value.data
    empty = is_lazy(value) or memory.is_meta or memory.layout != torch.strided
    values = None if empty else memory.clone()
    grad = value.grad if value.is_leaf else None
    needs_grad, kind = value.requires_grad, type(value)

    def restore() -> None:
        if type(value) is not kind:  # an uninitialised parameter has been given its shape
            value.__class__ = kind  # pyright: ignore[reportAttributeAccessIssue]
        if values is not None and not torch.equal(memory, values):
            memory.copy_(values)
        now = value.data
        form, form_before = ((t.device, t.dtype, t.shape) for t in (now, memory))
        if form != form_before or (values is not None and not _same_place(now, memory)):
            value.data = memory
        if value.is_leaf:
            if value.requires_grad != needs_grad:
                value.requires_grad_(needs_grad)
            if value.grad is not grad:
                value.grad = grad

    return restore, [] if grad is None else [grad]


def _same_place(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride()


def _module(module: nn.Module, kind: type[nn.Module], attributes: dict[str, Any]) -> None:
    if type(module) is not kind:
        module.__class__ = kind
    _refill(vars(module), attributes)


def _refill(now: Any, before: Any) -> None:
    """Give the container ``now`` the contents of ``before``, unless it has them."""
    if list(map(id, _parts(now))) != list(map(id, _parts(before))):
        now.clear()
        (now.extend if isinstance(now, (list, deque)) else now.update)(before)


def _parts(container: Any) -> list[Any]:
    """The elements of a container; of a dictionary the keys and the values."""
    return [*container, *container.values()] if isinstance(container, dict) else list(container)
