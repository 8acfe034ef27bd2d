"""Steps of torch's optimisers by one kernel, with less Python around it.

With ``fused=True`` torch's classes look up the state of each weight in each step, and sort weights, gradients
and state by device and dtype: for a network of twenty small weights this takes longer than the kernel. Who
finds all of it as the last step left it need not do so again. The kernel, its arguments and so the bits are
the same; whatever is not as it was left, torch's own step takes care of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnexp.optim.fused import Layouts, lie_alike, refuse_gaps
from cnnexp.optim.torch_internals import whole_step

__all__ = ["STEP", "ByOneKernel"]

STEP = "step"


class _Left(NamedTuple):
    """What a step left of one group.

    Attributes:
        weights: Those that had gradients.
        had: Of each parameter of the group, whether it had one.
        strides: Of the weights.
        of_grads: Strides of gradients that lie as the weights do, though they may call it otherwise.
        states: Of the weights.
        tensors: By the name of a part of the state, that part of each weight.
        counts: The weights' numbers of steps, of which the states hold views; None where nobody counts.
        places: Where these views are in memory.
    """

    weights: list[Tensor]
    had: list[bool]
    strides: list[tuple[int, ...]]
    of_grads: list[tuple[int, ...]]
    states: list[dict[str, Any]]
    tensors: dict[str, list[Tensor]]
    counts: Tensor | None
    places: list[int]

    def grads(self, group: Mapping[str, Any], names: Sequence[str]) -> list[Tensor] | None:
        """The gradients of the weights; None where something is not as it was left."""
        found = [weight.grad for weight in group["params"]]
        grads = [each for each in found if each is not None]
        if [each is not None for each in found] != self.had or names != (*self.tensors,):
            return None
        weights = [w for w, g in zip(group["params"], found, strict=True) if g is not None]
        if not _same(weights, self.weights) or [*map(Tensor.stride, weights)] != self.strides:
            return None
        for name, parts in self.tensors.items():
            if not _same([state.get(name) for state in self.states], parts):
                return None
        if self.counts is not None and _places(self.tensors[STEP]) != self.places:
            return None
        if {each.layout for each in grads} - {torch.strided}:
            return None
        of_grads = [*map(Tensor.stride, grads)]
        if of_grads != self.of_grads:
            if not all(map(lie_alike, grads, weights)):
                return None
            self.of_grads[:] = of_grads
        return grads


class ByOneKernel(Optimizer):
    """What these classes have in common; they say which state they have, and call their kernel."""

    keeps_layouts = True  # see ``cnnexp.optim.keep_layouts``

    move: ClassVar[Callable[..., None]]  # the kernel
    _torchs: ClassVar[type[Optimizer]]
    _left: list[_Left] | None = None
    # all weights that have a state, and their states
    _states: tuple[Sequence[object], Sequence[object]] = (), ()
    _layouts: Layouts | None = None  # what is known of them while steps are torch's

    def _names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The parts of a weight's state."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, as torch's; with ``fused`` weights with gaps are refused.

        Raises:
            ValueError: A weight has gaps, over which the kernel passes.
        """
        self._left = self._layouts = None
        super().add_param_group(param_group)
        try:
            refuse_gaps([param_group])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Go on from ``state_dict``, as torch's; with its ``fused`` only where this one has it, too."""
        self._left = self._layouts = None
        super().load_state_dict(state_dict)
        Layouts().reconcile(self)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let the gradients go, or make them zero, as torch's."""
        if not set_to_none or torch.compiler.is_compiling():
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; return the loss of ``closure``, if given, which computes loss and gradients."""
        if torch.compiler.is_compiling():
            return whole_step(self._torchs)(self, closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            if not self._moved():
                if self._layouts is None or self._left is not None:  # something is new
                    self._layouts = Layouts()
                self._layouts.put_in_order(self)
                whole_step(self._torchs)(self)
                self._left = self._what_is_left()
        return loss

    def _moved(self) -> bool:
        """Whether all was as it was left, so that the kernel could be called."""
        scaled = any(getattr(self, name, None) is not None for name in ("grad_scale", "found_inf"))
        if self._left is None or scaled or len(self._left) != len(self.param_groups):
            return False
        weights, states = self._states
        if not _same(self.state, weights) or not _same(self.state.values(), states):
            return False
        every = []
        for left, group in zip(self._left, self.param_groups, strict=True):
            grads = left.grads(group, self._names(group)) if _plain(group) else None
            if grads is None:
                return False
            every.append(grads)
        for left, group, grads in zip(self._left, self.param_groups, every, strict=True):
            if left.counts is not None:
                left.counts.add_(1)
            if grads:
                self.move(group, left.weights, grads, left.tensors)
        return True

    def _what_is_left(self) -> list[_Left] | None:
        """After a step; None where the next one cannot be taken by the kernel alone."""
        every = []
        for group in self.param_groups:
            if not _plain(group):
                return None
            had = [each.grad is not None for each in group["params"]]
            weights = [each for each in group["params"] if each.grad is not None]
            names = self._names(group)
            states = [self.state[each] for each in weights] if names else []
            if not all(map(_on_cpu, weights)) or len({each.dtype for each in weights}) > 1:
                return None
            if not all(isinstance(state.get(name), Tensor) for state in states for name in names):
                return None
            if len({id(state) for state in states}) < len(states):  # a weight that is there twice
                return None
            counts = _together(states) if STEP in names and states else None
            tensors = {name: [state[name] for state in states] for name in names}
            strides = [*map(Tensor.stride, weights)]
            left = weights, had, strides, [*strides], states, tensors
            every.append(_Left(*left, counts, _places(tensors.get(STEP, []))))
        self._states = [*self.state], [*self.state.values()]
        return every


def _plain(group: Mapping[str, Any]) -> bool:
    """Whether the kernel moves this group, by numbers that are no tensors."""
    numbers = group["lr"], *group.get("betas", ())
    other = group.get("capturable") or group.get("differentiable")
    return group["fused"] is True and not other and not any(isinstance(n, Tensor) for n in numbers)


def _on_cpu(weight: Tensor) -> bool:
    """Whether ``weight`` is a tensor of the usual kind; those of FSDP are not."""
    return type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu"


def _same(found: Iterable[object], kept: Sequence[object]) -> bool:
    """Whether these are the same objects in the same order."""
    found = [*found]
    return len(found) == len(kept) and all(map(is_, found, kept))


def _places(tensors: Sequence[Tensor]) -> list[int]:
    return [*map(Tensor.data_ptr, tensors)]


def _together(states: Sequence[dict[str, Any]]) -> Tensor:
    """The numbers of steps of all ``states`` in one tensor, which one addition moves; they get views."""
    counts = torch.stack([state[STEP] for state in states])
    for place, state in enumerate(states):
        state[STEP] = counts[place]
    return counts
