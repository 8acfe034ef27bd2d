"""What a layer returns that waits for the calls after it, so that it can compute them as one block.

``F.max_pool2d(F.relu(self.conv(x)), 2)`` are three calls of somebody else's ``forward``. To compute them
as one, the convolution returns a :class:`Deferred` in place of its output: a tensor to every call, which
answers ``F.relu`` with another one, and the pooling with the output of the block. Any other call, and any
look at its shape or values, gets the convolution's own output, computed by torch at that moment, and from
then on everything is torch's own. So the network's code runs as it stands, every time: what ``torch.fx`` saw
of it before (``cnnexp.nn.fuse_calls``) is only a guess at where waiting pays. Where what the output depends
on has changed before somebody looks, there is an error; docs/pytorch.md says which code should not wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from cnnexp.nn.steps import Step, step_of, writes_into_its_argument
from cnnexp.ops.torch_internals import writes_into


class Waiter(Protocol):
    """A layer whose output may be deferred: ``cnnexp.nn.deferring.Deferring``."""

    steps: tuple[Step, ...]

    def alone(self, input: Tensor) -> Tensor:
        """Return what the layer gives without its steps, as torch computes it."""
        ...

    def block(self, input: Tensor) -> Tensor:
        """Return what the layer and all its steps give."""
        ...


@dataclass
class Waiting:
    """A call of a layer, and perhaps steps after it, that have not been computed.

    Attributes:
        layer: The layer.
        input: Its argument.
        modes: What autograd and autocast were set to.
        found: The input, the parameters and the mode of the layer, as they were.
        before: What waited before the last step; None where there was no step yet.
        done: How many of the layer's steps have been called.
        value: What the layer and those steps give, once somebody has looked.
        written: How often something had been written into the value when it was computed.
        computed: Whether the block has been computed.
    """

    layer: Waiter
    input: Tensor
    modes: tuple[Any, ...]
    found: tuple[Any, ...]
    before: Waiting | None = None
    done: int = 0
    value: Tensor | None = None
    written: int | None = None
    computed: bool = False

    def after(self, step: Step) -> Tensor | None:
        """See ``Placeholder.after``."""
        waits = self.value is None and (self.before is None or self.before.value is None)
        expected = self.layer.steps[self.done : self.done + 1] == (step,)
        if not (waits and expected) or self.modes != _modes(self.input):
            return None
        if self.done + 1 < len(self.layer.steps):
            return _deferred(replace(self, before=self, done=self.done + 1))
        _check_unchanged(self)
        self.computed = True
        return self.layer.block(self.input)

    def output(self) -> Tensor:
        """See ``Placeholder.output``."""
        if self.value is None:
            with _in_modes(self):
                if self.before is not None:
                    before = self.before.output()
                    _check_unwritten(self.before)
                    self.value = self.layer.steps[self.done - 1].by_torch(before)
                else:
                    _check_unchanged(self)
                    with _unchanged_buffers(self):
                        self.value = self.layer.alone(self.input)
            self.written = _writes(self.value)
        return self.value


class Placeholder(Tensor):
    """In place of an output: a tensor to every call, which is given the output itself."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take ``func`` as the next step of a block, or call it with the output."""
        kwargs = kwargs or {}
        step = step_of(func, args, kwargs)
        if step is not None and isinstance(args[0], Placeholder):
            taken = args[0].after(step, writes_into_its_argument(func, kwargs))
            if taken is not None:
                return taken
        return func(*computed(args), **computed(kwargs))

    def after(self, step: Step, inplace: bool = False) -> Tensor | None:
        """What ``step`` makes of this output; None where the block has no such step here.

        Args:
            step: The call.
            inplace: Whether its result is to be left in this output.
        """
        raise NotImplementedError(f"{type(self).__name__} must define after()")

    def output(self) -> Tensor:
        """The output: always the same tensor."""
        raise NotImplementedError(f"{type(self).__name__} must define output()")


class Deferred(Placeholder):
    """The output of a layer that waits for the calls after it; see the module."""

    waiting: Waiting

    def after(self, step: Step, inplace: bool = False) -> Tensor | None:
        """See ``Placeholder.after``."""
        taken = self.waiting.after(step)
        if inplace and isinstance(taken, Deferred):
            self.waiting = taken.waiting
        elif inplace:
            self.waiting.value = taken
        return taken

    def output(self) -> Tensor:
        """The output, computed by torch."""
        return self.waiting.output()


_Kind = TypeVar("_Kind", bound=Placeholder)


def defer(layer: Waiter, input: Tensor) -> Deferred:
    """The output of ``layer`` on ``input``, to be computed with the calls after it."""
    return _deferred(Waiting(layer, input, _modes(input), _found(layer, input)))


def _deferred(waiting: Waiting) -> Deferred:
    output = placeholder(Deferred)
    output.waiting = waiting
    return output


def placeholder(kind: type[_Kind]) -> _Kind:
    """A new placeholder of ``kind``."""
    return _PLACE.as_subclass(kind)


def computed(value: Any) -> Any:
    """``value`` with the outputs in place of their placeholders in it."""
    if isinstance(value, Placeholder):
        return value.output()
    if isinstance(value, dict):
        return {key: computed(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(computed, value))
    return value


# What a placeholder is to code that does not ask for torch functions, as torch.autograd.Function.apply:
# autograd refuses a gradient for it, which would be lost.
_PLACE = torch.empty(0, requires_grad=True)


def _modes(input: Tensor) -> tuple[Any, ...]:
    device = input.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else None
    return torch.is_grad_enabled(), autocast, dtype


@contextmanager
def _in_modes(waiting: Waiting) -> Iterator[None]:
    with_grad, autocast, dtype = waiting.modes
    device = waiting.input.device.type
    with torch.set_grad_enabled(with_grad), torch.autocast(device, dtype, enabled=autocast):
        yield


@contextmanager
def _unchanged_buffers(waiting: Waiting) -> Iterator[None]:
    """Within it a second computation of the same call changes no running statistics."""
    layer: nn.Module = waiting.layer  # pyright: ignore[reportAssignmentType]
    kept = dict(layer.named_buffers(recurse=False)) if waiting.computed else {}
    for name, buffer in kept.items():
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for name, buffer in kept.items():
            setattr(layer, name, buffer)


def _writes(input: Tensor) -> int | None:
    return None if input.is_inference() else writes_into(input)


def _found(layer: Waiter, input: Tensor) -> tuple[Any, ...]:
    """What the output depends on: who they are, and how often something had been written into them."""
    parameters = layer.parameters() if isinstance(layer, nn.Module) else ()
    given = [(id(each), _writes(each)) for each in (input, *parameters)]
    return (*given, getattr(layer, "training", None))


def _check_unchanged(waiting: Waiting) -> None:
    if waiting.found != _found(waiting.layer, waiting.input):
        raise RuntimeError(
            f"the input, the parameters or the mode of {type(waiting.layer).__name__} changed between the "
            f"call of the layer and the first use of its output, which cnnexp computes only then; take "
            f"output.clone() at the call, or leave out functions=True"
        )


def _check_unwritten(waiting: Waiting) -> None:
    if waiting.value is not None and waiting.written != _writes(waiting.value):
        raise RuntimeError(
            f"the output of {type(waiting.layer).__name__} was written into before what follows from it was "
            f"used, which cnnexp computes only then; write into a copy, or leave out functions=True"
        )
