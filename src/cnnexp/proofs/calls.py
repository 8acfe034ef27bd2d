"""One call of a subject, which can be repeated at other values, in float64, and leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cnnexp.as_found import left_as_found
from cnnexp.proofs.cases import Case
from cnnexp.proofs.measures import can_require_grad, named_outputs
from cnnexp.proofs.subject import Subject

_PATIENCE = 1000
_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}
_Filled = Callable[[Sequence[Tensor | None]], Any]
_LARGE = 10_000  # copying this many elements takes longer than a small call


class Leaf(NamedTuple):
    """A tensor with respect to which a call is differentiated.

    Attributes:
        name: The name of the argument, the parameter or the buffer.
        value: The point at which the derivative is taken; a complex tensor as pairs of real numbers.
        held: The tensor of the subject that takes the value; None for an argument.
        complex: Whether the subject receives the pairs as complex numbers.
    """

    name: str
    value: Tensor
    held: Tensor | None
    complex: bool


class Run(NamedTuple):
    """The result of one evaluation.

    Attributes:
        leaves: The tensors to differentiate with respect to.
        passed: For each leaf that is an argument, the tensor that the subject was given; else None.
        outputs: Names and tensors, as pairs of real numbers where complex.
        arguments: All positional arguments that the subject was given.
    """

    leaves: list[Tensor]
    passed: list[Tensor | None]
    outputs: list[tuple[str, Tensor]]
    arguments: list[Any]

    def differentiable(self) -> list[Tensor]:
        """The outputs through which a gradient flows."""
        return [t for _, t in self.outputs if t.requires_grad]


class Call:
    """A context for calls of ``subject`` with the arguments of ``case``, in ``dtype``.

    Inside the context the subject's Modules compute in ``dtype``; on leaving it they are restored to
    the bit.
    """

    def __init__(self, subject: Subject, case: Case, dtype: torch.dtype) -> None:
        self.subject, self.case, self.dtype = subject, case, dtype
        self.keywords = {key: _cast(value, dtype) for key, value in case.arguments.items()}
        names = self._names = subject.argument_names(case.tensors, case.arguments)
        self.leaves: list[Leaf] = []
        self._constants: dict[str, Tensor] = {}  # arguments without a gradient, such as classes
        self._arguments = [
            self._argument(name, value) for name, value in zip(names, case.tensors, strict=True)
        ]
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        self._placed: dict[int, Tensor] = {}
        self.settled = False

    def _argument(self, name: str, value: Any) -> _Filled:
        """A function of the leaves' tensors that gives ``value`` with these in their places."""
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            parts = [self._argument(f"{name}[{i}]", part) for i, part in enumerate(value)]
            make = type(value)._make if hasattr(value, "_fields") else type(value)  # pyright: ignore[reportAttributeAccessIssue]
            return lambda passed: make([part(passed) for part in parts])
        if isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values()):
            keyed = {k: self._argument(f"{name}[{k!r}]", part) for k, part in value.items()}
            return lambda passed: {key: part(passed) for key, part in keyed.items()}
        cast, place = _cast(value, self.dtype), len(self.leaves)
        if not isinstance(cast, Tensor):
            return lambda _: cast
        if not can_require_grad(cast):
            self._constants[name] = cast
            return lambda _: cast.clone()
        pairs = torch.view_as_real(cast.contiguous()) if cast.is_complex() else cast
        self.leaves.append(Leaf(name, pairs, None, cast.is_complex()))
        return lambda passed: passed[place]

    def __enter__(self) -> Call:
        with ExitStack() as undo:  # the last to be entered is the first to be undone
            for module in self.subject.modules.values():
                undo.enter_context(left_as_found(module))
            for _, tensor in self.subject.trained:
                if tensor.is_leaf:  # some ways to differentiate leave their results there
                    undo.callback(setattr, tensor, "grad", tensor.grad)
                    tensor.grad = None
            for tensor in _held(self.subject):
                if can_require_grad(tensor):
                    undo.callback(setattr, tensor, "data", tensor.data)
                    tensor.data = _cast(tensor.data, self.dtype).clone()
            for _, tensor in self.subject.trained:
                undo.callback(tensor.requires_grad_, tensor.requires_grad)
            trained = {id(held.tensor) for held in self.subject.trained}
            for module in self.subject.parts():
                for name, buffer in module.named_buffers(recurse=False):
                    if id(buffer) not in trained:
                        kept = buffer.detach().clone()
                        self._buffers.append((module, name, buffer, kept))
            for name, tensor in self.subject.trained:
                if not tensor.is_complex():
                    self.leaves.append(Leaf(name, tensor.detach().clone(), tensor, False))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    def _restore_buffers(self) -> None:
        with torch.no_grad():
            for module, name, buffer, kept in self._buffers:
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)
                buffer.copy_(kept)

    def settle(self) -> None:
        """Call the subject until buffers that it writes and uses, as in a power iteration, stop changing.

        Autograd treats them as constants. ``settled`` is set to True if there are any.
        """
        if not self._buffers:
            return
        last = self.run().outputs
        for _ in range(_PATIENCE):
            now = self.run(restore=False).outputs
            moved = _distance([t for _, t in now], [t for _, t in last])
            if moved == 0 and not self.settled:
                return
            self.settled, last = True, now
            if moved <= 1e-15:
                break
        else:
            return
        self._buffers = [
            (module, name, buffer, getattr(module, name).detach().clone())
            for module, name, buffer, _ in self._buffers
        ]

    def values(self) -> list[Tensor]:
        """The points at which the derivatives are taken, one tensor per leaf."""
        return [leaf.value for leaf in self.leaves]

    def run(
        self,
        values: Sequence[Tensor] | None = None,
        *,
        alone: int | None = None,
        strided: bool = False,
        seed: int = 0,
        restore: bool = True,
    ) -> Run:
        """Evaluate the subject, with the same random numbers each time.

        Args:
            values: One tensor per leaf; the case's own values if None.
            alone: The only leaf that requires a gradient; all do if None.
            strided: Whether arguments are passed as views whose elements are not adjacent.
            seed: Seed of the random numbers.
            restore: Whether buffers are restored first.
        """
        leaves: list[Tensor] = []
        passed: list[Tensor | None] = []
        if restore:
            self._restore_buffers()
        for i, leaf in enumerate(self.leaves):
            value = leaf.value if values is None else values[i]
            wanted = alone is None or alone == i
            if leaf.held is not None:
                self._place(i, value)
                leaves.append(leaf.held.requires_grad_(wanted))
                passed.append(None)
                continue
            leaves.append(value.detach().clone().requires_grad_(wanted))
            passed.append(_given(leaves[i], leaf.complex, strided))
        arguments = [fill(passed) for fill in self._arguments]
        with torch.enable_grad(), random_numbers(seed):
            result = self.subject.call(*arguments, **self.keywords)
        return Run(leaves, passed, list(named_outputs(result, "the output")), arguments)

    def written(self, run: Run) -> list[str]:
        """The names of the arguments without a gradient, such as classes, that ``run`` changed."""
        now = dict(zip(self._names, run.arguments, strict=True))
        return [
            name
            for name, before in self._constants.items()
            if name in now and not torch.equal(before, now[name])
        ]

    def _place(self, i: int, value: Tensor) -> None:
        """Copy ``value`` into leaf ``i``, which the subject holds; a large one only if it is a new one."""
        held = self.leaves[i].held
        assert held is not None
        if value.numel() < _LARGE or self._placed.get(i) is not value:
            # through .data, which autograd does not count: graphs of other runs stay valid
            held.data.copy_(value)
            self._placed[i] = value

    def stacked(self, values: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The outputs under ``torch.func.vmap`` over several sets of values of the arguments."""
        places = [i for i, leaf in enumerate(self.leaves) if leaf.held is None]
        self._restore_buffers()

        def one(*tensors: Tensor) -> list[Tensor]:
            given: list[Tensor | None] = [None] * len(self.leaves)
            for i, tensor in zip(places, tensors, strict=True):
                given[i] = torch.view_as_complex(tensor) if self.leaves[i].complex else tensor
            arguments = [fill(given) for fill in self._arguments]
            result = self.subject.call(*arguments, **self.keywords)
            return [t for _, t in named_outputs(result)]

        with torch.no_grad(), random_numbers(0):
            for i, leaf in enumerate(self.leaves):
                if leaf.held is not None:
                    self._place(i, leaf.value)
            stacks = [torch.stack([each[i].detach() for each in values]) for i in places]
            return torch.func.vmap(one)(*stacks)


def _distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest number of its tensor; NaN is ignored."""
    gaps = [
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-300)).item()
        for a, b in zip(found, expected, strict=True)
        if b.is_floating_point() and b.numel()
    ]
    return max((gap for gap in gaps if gap == gap), default=0.0)


def _given(leaf: Tensor, complex: bool, strided: bool) -> Tensor:
    """What a subject gets of a leaf: a copy, as functions may change arguments, and a leaf may not be."""
    with torch.enable_grad():  # whoever calls us
        value = torch.view_as_complex(leaf.contiguous()) if complex else leaf
        return scattered(value) if strided else value.clone()


def scattered(tensor: Tensor) -> Tensor:
    """The same values in another memory order than that of the axes, and with gaps."""
    spaced = torch.stack([tensor, tensor], -1)
    axis = min(1, tensor.dim() - 1)
    if tensor.dim() < 2:
        return spaced[..., 0]
    return spaced.movedim(axis, -1).contiguous().movedim(-1, axis)[..., 0]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(dtype)
    if isinstance(value, Tensor) and value.is_complex():
        return value.detach().to(_COMPLEX[dtype])
    return value


def _held(subject: Subject) -> list[Tensor]:
    """All tensors that the subject holds, each once, including those that are not buffers."""
    found = [*subject.loose, *(held.tensor for held in subject.trained)]
    for part in subject.parts():
        found += [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        found += [value for value in vars(part).values() if isinstance(value, Tensor)]
    return list({id(tensor): tensor for tensor in found}.values())


@contextmanager
def random_numbers(seed: int) -> Iterator[None]:
    """Give every call the same random numbers inside the context; restore the caller's random states."""
    python, numpy, host = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # torch.manual_seed would record a stack trace in each call where CUDA is not initialised
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    torch.default_generator.manual_seed(seed)
    if cuda:
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(host)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
