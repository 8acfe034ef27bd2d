"""What a geometry follows from, and geometries that are kept: a network asks for the same ones each step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import NoneType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

_Made = TypeVar("_Made")
_EXACT = frozenset({int, str, bool, NoneType})


class Described(NamedTuple):
    """All of a tensor but its numbers and where they lie.

    Attributes:
        shape: Its sizes.
        dtype: Of its numbers.
        device: Where they are.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def described(tensor: Tensor | Described) -> Described:
    """The shape, dtype and device of ``tensor``, or of one that is no more than described."""
    return Described(tensor.shape, tensor.dtype, tensor.device)


def remembered(
    make: Callable[..., _Made], tensors: tuple[Described | None, ...], *others: Any
) -> _Made:
    """``make(*tensors, *others)``, from the last time where the arguments are the same.

    A tracer's sizes are no numbers, and a float that equals an int is an error where the int is none:
    nothing is kept then.

    Args:
        make: Computes a value that nobody changes, without side effects.
        tensors: Its first arguments.
        *others: The others.
    """
    if torch.compiler.is_compiling() or not all(map(_is_exact, others)):
        return make(*tensors, *others)
    try:
        return _kept(
            make, tensors, others, tuple(map(type, others))
        )  # True is 1, but no number of groups
    except TypeError:  # something cannot be a key; or ``make`` raised it, and will again
        return make(*tensors, *others)


def _is_exact(value: Any) -> bool:
    kind = type(value)
    if kind is tuple:
        return set(map(type, value)) <= {int}
    return kind in _EXACT or getattr(kind, "exact", False)


@functools.lru_cache(maxsize=4096)
def _kept(
    make: Callable[..., Any],
    tensors: tuple[Described | None, ...],
    others: tuple[Any, ...],
    _kinds: tuple[type, ...],
) -> Any:
    return make(*tensors, *others)
