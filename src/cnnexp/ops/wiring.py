"""Which function of an op reads what: worked out from their arguments' names, once for each op."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Literal, NamedTuple

import torch

Function = Callable[..., Any]
Names = tuple[str, ...]
Shared = Mapping[str | Names, Function]
Tangent = Literal["linear", "diagonal"] | Function | None

NEEDS = "needs_input_grad"  # of each argument, whether its gradient is needed, as autograd names it
OF_TANGENT = -1  # who needs a value: arguments by position, or the tangent


class Wiring(NamedTuple):
    """The plan of one op, in tuples, names and functions: ``torch.compile`` follows no others.

    Attributes:
        forward: The op.
        arguments: Their names.
        outputs: Their names.
        kept: For each tensor that is kept its name, its place among arguments and outputs, and the
            positions of the arguments whose gradients need it.
        options: Names and places of the other arguments that are needed.
        shared: What is worked out in the backward, in this order: what it is named, the function, the
            names that it reads, and who needs it.
        gradients: The position of an argument, the function of its gradient, the names that it reads.
        tangent: The function of the output's tangent and the names that it reads, if there is one.
    """

    forward: Function
    arguments: Names
    outputs: Names
    kept: tuple[tuple[str, int, tuple[int, ...]], ...]
    options: tuple[tuple[str, int], ...]
    shared: tuple[tuple[str | Names, Function, Names, tuple[int, ...]], ...]
    gradients: tuple[tuple[int, Function, Names], ...]
    tangent: tuple[Function, Names] | None


def computed(function: Function, reads: Names, values: Mapping[str, Any]) -> Any:
    """``function`` of those of ``values`` that it reads."""
    return function(*[values[name] for name in reads])


def share(
    shared: Sequence[tuple[str | Names, Function, Names, tuple[int, ...]]],
    values: dict[str, Any],
    needed: Sequence[int],
) -> None:
    """Enter into ``values`` what is shared and one of ``needed`` needs."""
    for names, function, reads, users in shared:
        if any(user in needed for user in users):
            result = computed(function, reads, values)
            parts = [result] if isinstance(names, str) else result
            values.update(zip(_parts(names), parts, strict=True))


def wire(
    forward: Function,
    outputs: Sequence[str],
    shared: Shared,
    gradients: Mapping[str, Function],
    tangent: Tangent,
    keeps: Mapping[str, Sequence[str]] | None = None,
) -> Wiring:
    """The plan of ``forward``; arguments and errors as of ``cnnexp.ops.autograd.differentiable``."""
    annotated = _annotated(forward)
    arguments, stored = tuple(annotated), [*annotated, *outputs]
    for name in gradients:
        if name not in annotated:
            raise TypeError(
                f"{_named(forward)} has no argument '{name}' that could have a gradient; its "
                f"arguments are {', '.join(annotated)}"
            )
    made = {name for names in shared for name in _parts(names)}
    known = {"grad_output", NEEDS, *stored, *made}
    ends = [(arguments.index(name), f, _reads(f, known)) for name, f in gradients.items()]
    if tangent == "diagonal":
        moved = _diagonal(ends, arguments)
    else:
        moved = _moved(tangent, forward, annotated, list(gradients), known)

    asked: dict[str, set[int]] = {}  # who needs what
    for user, _, reads in [*ends, *([(OF_TANGENT, *moved)] if moved else [])]:
        for name in reads:
            asked.setdefault(name, set()).add(user)
    steps = []
    for names, function in reversed([*shared.items()]):  # so that who needs the last is known first
        users = set().union(*[asked.pop(name, set()) for name in _parts(names)])
        reads = _reads(function, known)
        for name in reads:
            asked.setdefault(name, set()).update(users)
        steps.insert(0, (names, function, reads, tuple(sorted(users))))
    for name, users in (keeps or {}).items():
        asked[name] = {arguments.index(user) for user in users}
    tensors = {n for n, text in annotated.items() if "Tensor" in text} | set(outputs)
    found = [
        (n, i, tuple(sorted(asked[n] - {OF_TANGENT}))) for i, n in enumerate(stored) if n in asked
    ]
    return Wiring(
        forward=forward,
        arguments=arguments,
        outputs=tuple(outputs),
        kept=tuple(each for each in found if each[0] in tensors),
        options=tuple((name, place) for name, place, _ in found if name not in tensors),
        shared=tuple(steps),
        gradients=tuple(ends),
        tangent=moved,
    )


def _annotated(forward: Function) -> dict[str, str]:
    """The arguments of ``forward`` and their annotations."""
    parameters = inspect.signature(forward).parameters
    for name, parameter in parameters.items():
        if parameter.annotation is parameter.empty:
            raise TypeError(
                f"{_named(forward)} does not say what its argument '{name}' is; annotate it: tensors "
                f"are kept for the backward in another way than other values"
            )
    return {name: str(parameter.annotation) for name, parameter in parameters.items()}


def _parts(names: str | Names) -> Names:
    return (names,) if isinstance(names, str) else names


def _reads(function: Function, known: Collection[str]) -> Names:
    """The arguments of ``function``, up to the first optional one that nobody knows."""
    names: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in known:
            names.append(name)
        elif parameter.default is not parameter.empty:
            break
        else:
            raise TypeError(
                f"{_named(function)} asks for '{name}', which is none of {', '.join(sorted(known))}"
            )
    return tuple(names)


def _named(function: Function) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def _moved(
    tangent: Tangent,
    forward: Function,
    annotated: Mapping[str, str],
    moving: list[str],
    known: Collection[str],
) -> tuple[Function, Names] | None:
    """How forward mode moves the output when the arguments ``moving`` move."""
    if tangent == "linear":
        added = [n for n in moving if "None" in annotated[n] or "Optional" in annotated[n]]
        return _linear(forward, list(annotated), [n for n in moving if n not in added], added)
    if tangent is None or isinstance(tangent, str):
        return None
    return tangent, _reads(tangent, {*known, *[f"{name}_tangent" for name in moving]})


def _diagonal(ends: list[tuple[int, Function, Names]], arguments: Names) -> tuple[Function, Names]:
    """The gradient functions with the tangents in place of the output's gradient, summed over them."""
    if len(ends) == 1:  # which takes its tangent for ``grad_output``
        return ends[0][1:]
    tangents = [f"{arguments[place]}_tangent" for place, _, _ in ends]
    others = {name for _, _, reads in ends for name in reads} - {"grad_output"}
    names = (*sorted(others), *tangents)

    def tangent(*values: Any) -> torch.Tensor:
        at = dict(zip(names, values, strict=True))
        moved = [
            computed(function, reads, {**at, "grad_output": at[name]})
            for name, (_, function, reads) in zip(tangents, ends, strict=True)
            if at[name] is not None
        ]
        return reduce(add, moved)

    return tangent, names


def _linear(
    forward: Function, arguments: list[str], factors: list[str], added: list[str]
) -> tuple[Function, Names]:
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

    return tangent, (*fixed, *[f"{name}_tangent" for name in moving])
