"""torch's Adagrad, Adam, AdamW and SGD with less Python around the kernel that moves all weights.

With ``fused=True`` torch's classes look up the state of each weight in each step, and sort weights, gradients
and state by device and dtype: for a network of twenty small weights this takes longer than the kernel. Who
finds all of it as the last step left it need not do so again. The kernel, its arguments and so the bits are
the same; state dicts are interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_, itemgetter
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnexp.optim.fused import Layouts, lie_alike, refuse_gaps
from cnnexp.optim.torch_internals import move_by_adagrad, move_by_adam, move_by_sgd, whole_step

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "with_less_python"]

_STEP = "step"


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
    """

    weights: list[Tensor]
    had: list[bool]
    strides: list[tuple[int, ...]]
    of_grads: list[tuple[int, ...]]
    states: list[dict[str, Any]]
    tensors: dict[str, list[Tensor]]
    counts: Tensor | None

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
            if not _same(map(itemgetter(name), self.states), parts):
                return None
        of_grads = [*map(Tensor.stride, grads)]
        if of_grads != self.of_grads:
            if not all(map(lie_alike, grads, weights)):
                return None
            self.of_grads[:] = of_grads
        return grads


class _ByOneKernel(Optimizer):
    """What the classes below have in common; they say which state they have, and call their kernel."""

    keeps_layouts = True  # see ``cnnexp.optim.keep_layouts``

    move: ClassVar[Callable[..., None]]  # the kernel
    _torchs: ClassVar[type[Optimizer]]
    _left: list[_Left] | None = None
    _states: Sequence[dict[str, Any]] = ()  # of all weights

    def _names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The parts of a weight's state."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, as torch's; with ``fused`` weights with gaps are refused.

        Raises:
            ValueError: A weight has gaps, over which the kernel passes.
        """
        self._left = None
        super().add_param_group(param_group)
        if param_group.get("fused"):
            for weight in param_group["params"]:
                refuse_gaps(weight)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Go on from ``state_dict``, as torch's; with its ``fused`` only where this one has it, too."""
        self._left = None
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
        by_torch = whole_step(self._torchs)
        if torch.compiler.is_compiling():
            return by_torch(self, closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            if not self._moved():
                Layouts().put_in_order(self)
                by_torch(self)
                self._left = self._what_is_left()
        return loss

    def _moved(self) -> bool:
        """Whether all was as it was left, so that the kernel could be called."""
        scaled = any(getattr(self, name, None) is not None for name in ("grad_scale", "found_inf"))
        if self._left is None or scaled or not _same(self.state.values(), self._states):
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
            counts = _together(states) if _STEP in names and states else None
            tensors = {name: [state[name] for state in states] for name in names}
            strides = [*map(Tensor.stride, weights)]
            every.append(_Left(weights, had, strides, [*strides], states, tensors, counts))
        self._states = [*self.state.values()]
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


def _together(states: Sequence[dict[str, Any]]) -> Tensor:
    """The numbers of steps of all ``states`` in one tensor, which one addition moves; they get views."""
    counts = torch.stack([state[_STEP] for state in states])
    for place, state in enumerate(states):
        state[_STEP] = counts[place]
    return counts


class Adam(_ByOneKernel, torch.optim.Adam):
    """``torch.optim.Adam``, whose steps take less time with ``fused=True`` for small weights on a CPU.

    Args:
        *args, **kwargs: As for ``torch.optim.Adam``.

    Raises:
        ValueError: With ``fused=True``, a weight has gaps, over which the kernel passes.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import Adam
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = Adam([weight], lr=0.25, fused=True)
        >>> for _ in range(2):
        ...     weight.grad = torch.tensor([1.0, -3.0])
        ...     optimizer.step()
        >>> weight.data.round(decimals=3).tolist()
        [0.5, 1.5]
    """

    _torchs = torch.optim.Adam
    move = staticmethod(move_by_adam)

    def _names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        most = ("max_exp_avg_sq",) if group["amsgrad"] else ()
        return ("exp_avg", "exp_avg_sq", *most, _STEP)


class AdamW(Adam, torch.optim.AdamW):
    """``torch.optim.AdamW``, as :class:`Adam` is torch's Adam.

    Args:
        *args, **kwargs: As for ``torch.optim.AdamW``.

    Raises:
        ValueError: With ``fused=True``, a weight has gaps, over which the kernel passes.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2.
    """

    _torchs = torch.optim.AdamW


class Adagrad(_ByOneKernel, torch.optim.Adagrad):
    """``torch.optim.Adagrad``, as :class:`Adam` is torch's Adam.

    Args:
        *args, **kwargs: As for ``torch.optim.Adagrad``.

    Raises:
        ValueError: With ``fused=True``, a weight has gaps, over which the kernel passes.

    Source: Duchi, Hazan & Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization" (2011), figure 1, with a diagonal matrix.
    """

    _torchs = torch.optim.Adagrad
    move = staticmethod(move_by_adagrad)

    def _names(self, group: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG002 (of all groups)
        return ("sum", _STEP)


class SGD(_ByOneKernel, torch.optim.SGD):
    """``torch.optim.SGD``, as :class:`Adam` is torch's Adam.

    Args:
        *args, **kwargs: As for ``torch.optim.SGD``.

    Raises:
        ValueError: With ``fused=True``, a weight has gaps, over which the kernel passes.

    Source: Polyak, "Some methods of speeding up the convergence of iteration methods" (1964), for the
    momentum; Nesterov (1983) and Sutskever et al. (2013) for Nesterov's.
    """

    _torchs = torch.optim.SGD
    move = staticmethod(move_by_sgd)

    def _names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()


_OURS: dict[type[Optimizer], type[_ByOneKernel]] = {
    torch.optim.Adagrad: Adagrad,
    torch.optim.Adam: Adam,
    torch.optim.AdamW: AdamW,
    torch.optim.SGD: SGD,
}


def with_less_python(optimizer: Optimizer) -> Optimizer:
    """``optimizer`` as one of the classes above, if it is one of torch's that there is here; else itself.

    The two share their state: go on with the one that is returned.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import with_less_python
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> type(with_less_python(torch.optim.SGD([weight], lr=0.1, fused=True)))
        <class 'cnnexp.optim.torchs.SGD'>
    """
    kind = _OURS.get(type(optimizer))
    if kind is None:
        return optimizer
    made = kind.__new__(kind)
    made.__setstate__({**vars(optimizer)})  # as one that is unpickled
    return made
