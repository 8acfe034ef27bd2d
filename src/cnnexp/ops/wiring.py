"""Which function of an op reads what: worked out from their arguments' names, once for each op.

The backward computes from one list of values: ``grad_output``, the tensors that were kept, the other
arguments of the op (its options), then what is shared, in order; in forward mode the tangents follow.
A step is a function of that list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

__all__ = ["Shared", "Tangent", "Wiring", "wire"]

Function = Callable[..., Any]
Shared = Mapping[str | tuple[str, ...], Function]
Tangent = Literal["linear", "diagonal"] | Function | None

_OF_TANGENT = -1  # who needs a value: arguments by position, or the tangent


def _step(function: Function, places: tuple[int, ...]) -> Function:
    """``function`` as one of the list of values, in which its arguments stand at ``places``."""

    def of(values: Sequence[Any]) -> Any:
        return function(*[values[place] for place in places])

    return of


@dataclass(frozen=True)
class Wiring:
    """The plan of one op, in plain tuples and functions: ``torch.compile`` follows no others.

    Attributes:
        forward: The op.
        count: How many arguments it has.
        outputs: How many tensors it returns.
        kept: For each tensor that is kept its place among arguments and outputs, and the positions of
            the arguments whose gradients need it.
        options: The places of the other arguments that are needed.
        shared: What is worked out once in the backward, in this order: the step, how many values of
            their own its result is if it is a tuple, else 0, the positions of the arguments whose
            gradients need it, and whether the tangent does.
        gradients: The positions of arguments, and the steps that compute their gradients.
        tangent: The step that computes the tangent of the output, if forward mode is offered.
    """

    forward: Function
    count: int
    outputs: int
    kept: tuple[tuple[int, tuple[int, ...]], ...]
    options: tuple[int, ...]
    shared: tuple[tuple[Function, int, tuple[int, ...], bool], ...]
    gradients: tuple[tuple[int, Function], ...]
    tangent: Function | None


class _Read(NamedTuple):
    """A function, the names that it reads, and those that it makes."""

    function: Function
    reads: Sequence[str]
    makes: tuple[str, ...] = ()


def wire(
    forward: Function,
    outputs: Sequence[str],
    shared: Shared,
    gradients: Mapping[str, Function],
    tangent: Tangent,
) -> Wiring:
    """The plan of ``forward``; arguments and errors as of ``cnnexp.ops.autograd.differentiable``."""
    annotated = _annotated(forward)
    arguments, tangents = list(annotated), [f"{name}_tangent" for name in annotated]
    for name in gradients:
        if name not in annotated:
            raise TypeError(
                f"{_name(forward)} has no argument '{name}' that could have a gradient; its arguments "
                f"are {', '.join(annotated)}"
            )
    makes = [key if isinstance(key, tuple) else (key,) for key in shared]
    known = {"grad_output", *arguments, *outputs, *[name for names in makes for name in names]}
    between = [
        _Read(function, _reads(function, known), names)
        for names, function in zip(makes, shared.values(), strict=True)
    ]
    ends = {name: _Read(f, _reads(f, known)) for name, f in gradients.items()}
    carried = _carried(tangent, forward, annotated, ends, known | set(tangents))
    needs = _Needs(between)
    for name, end in ends.items():
        needs.ask(end.reads, len(between), arguments.index(name))
    if carried:
        needs.ask(carried.reads, len(between), _OF_TANGENT)

    stored = [*arguments, *outputs]
    tensors = {n for n, text in annotated.items() if "Tensor" in text} | set(outputs)
    kept = [name for name in stored if name in needs.given and name in tensors]
    options = [name for name in stored if name in needs.given and name not in tensors]
    places = _Places(["grad_output", *kept, *options])
    steps = []
    for read, users in zip(between, needs.made, strict=True):
        parts = len(read.makes) if len(read.makes) > 1 else 0
        steps.append((places.step(read), parts, _arguments_of(users), _OF_TANGENT in users))
        places.add(read.makes)
    places.add(tangents)
    return Wiring(
        forward,
        len(arguments),
        len(outputs),
        tuple((stored.index(name), _arguments_of(needs.given[name])) for name in kept),
        tuple(map(stored.index, options)),
        tuple(steps),
        tuple((arguments.index(name), places.step(end)) for name, end in ends.items()),
        places.step(carried) if carried else None,
    )


class _Needs:
    """Who needs what: of what is given, by name, and of what is made, by position."""

    def __init__(self, between: Sequence[_Read]) -> None:
        self._between = between
        self.given: dict[str, set[int]] = {}
        self.made: list[set[int]] = [set() for _ in between]

    def ask(self, names: Sequence[str], before: int, user: int) -> None:
        """Enter that ``user`` needs ``names``, as they stand before ``between[before]``."""
        for name in names:
            made = [i for i in range(before) if name in self._between[i].makes]
            if not made:
                self.given.setdefault(name, set()).add(user)
            elif user not in self.made[made[-1]]:
                self.made[made[-1]].add(user)
                self.ask(self._between[made[-1]].reads, made[-1], user)


class _Places:
    """Where each name stands in the list of values; the last of a name hides those before."""

    def __init__(self, names: Sequence[str]) -> None:
        self._places: dict[str, int] = {}
        self._count = 0
        self.add(names)

    def add(self, names: Sequence[str]) -> None:
        """Let ``names`` follow in the list."""
        for name in names:
            self._places[name] = self._count
            self._count += 1

    def step(self, read: _Read) -> Function:
        """``read`` with the places as they are."""
        return _step(read.function, tuple([self._places[name] for name in read.reads]))


def _arguments_of(users: set[int]) -> tuple[int, ...]:
    return tuple(sorted(users - {_OF_TANGENT}))


def _annotated(forward: Function) -> dict[str, str]:
    """The arguments of ``forward`` and their annotations."""
    annotated = {}
    for name, parameter in inspect.signature(forward).parameters.items():
        if parameter.annotation is parameter.empty:
            raise TypeError(
                f"{_name(forward)} does not say what its argument '{name}' is; annotate it: tensors "
                f"are kept for the backward in another way than other values"
            )
        annotated[name] = str(parameter.annotation)
    return annotated


def _reads(function: Function, known: set[str]) -> list[str]:
    """The names that ``function`` reads: its arguments up to those that nobody knows, optional ones."""
    names = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in known:
            if parameter.default is not parameter.empty:
                break
            raise TypeError(
                f"{_name(function)} asks for '{name}', which is none of {', '.join(sorted(known))}"
            )
        names.append(name)
    return names


def _name(function: Function) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def _carried(
    tangent: Tangent,
    forward: Function,
    annotated: Mapping[str, str],
    gradients: Mapping[str, _Read],
    known: set[str],
) -> _Read | None:
    """How forward mode carries the tangents."""
    if tangent is None:
        return None
    if tangent == "diagonal":
        ((name, gradient),) = gradients.items()
        moved = {"grad_output": f"{name}_tangent"}
        return _Read(gradient.function, [moved.get(each, each) for each in gradient.reads])
    if tangent == "linear":
        added = [n for n in gradients if "None" in annotated[n] or "Optional" in annotated[n]]
        factors = [name for name in gradients if name not in added]
        return _linear(forward, list(annotated), factors, added)
    return _Read(tangent, _reads(tangent, known))


def _linear(forward: Function, arguments: list[str], factors: list[str], added: list[str]) -> _Read:
    """The product rule: ``forward`` with one of ``factors`` replaced by its tangent, summed over them.

    What is ``added`` has no part in these products; its tangent is added to the first.
    """
    alone = len(factors) == 1 and not added  # then the argument itself has no part in it
    fixed = [a for a in arguments if a not in added and not (alone and a in factors)]
    moving = [*factors, *added]

    def tangent(*values: Any) -> torch.Tensor:
        at = dict(zip(fixed, values, strict=False))
        moved = dict(zip(moving, values[len(fixed) :], strict=True))
        replaced = [name for name in factors if moved[name] is not None]
        if not replaced:  # nothing moves but what is added
            replaced, moved[factors[0]] = factors[:1], torch.zeros_like(at[factors[0]])
        parts = []
        for name in replaced:
            terms = dict.fromkeys(added) if parts else {a: moved[a] for a in added}
            each = {**at, **terms, name: moved[name]}
            parts.append(forward(*[each[argument] for argument in arguments]))
        return sum(parts[1:], parts[0])

    return _Read(tangent, [*fixed, *[f"{name}_tangent" for name in moving]])
