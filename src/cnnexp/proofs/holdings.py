"""Find the Modules and tensors that a function uses besides its arguments, wherever it keeps them."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

_DEEPEST = 6
_FOREIGN = ("torch", "torchvision", "numpy", "builtins", "functools", "logging", "cnnexp")


def holdings(name: str, value: Any) -> Iterator[tuple[str, nn.Module | Tensor]]:
    """The Modules and tensors that ``value`` holds, each with the name under which its code has it.

    The search covers partials, methods' objects, closures, global variables that the code names,
    default values, decorated functions, lists, dicts and plain objects, and attributes of Modules
    that torch does not register, such as a list of layers.
    """
    return _search(name, value, set(), 0)


def _search(
    name: str, value: Any, seen: set[int], depth: int
) -> Iterator[tuple[str, nn.Module | Tensor]]:
    if id(value) in seen or depth > _DEEPEST:
        return
    if isinstance(value, (Tensor, nn.Module)):
        seen.add(id(value))
        yield name, value
        if isinstance(value, nn.Module):
            for part, module in value.named_modules(prefix=name):
                seen.add(id(module))
                for key, loose in _within(part, module):
                    if not isinstance(loose, Tensor):
                        yield from _search(key, loose, seen, depth + 1)
        return
    if isinstance(value, (str, bytes, int, float, complex, type, types.ModuleType, type(None))):
        return
    seen.add(id(value))
    for key, part in _within(name, value):
        yield from _search(key, part, seen, depth + 1)


def _within(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of ``value``, each with its own name."""
    dot = f"{name}." if name else ""
    if isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"{name}[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, functools.partial):
        yield name, value.func
        yield from ((f"{dot}args[{i}]", part) for i, part in enumerate(value.args))
        yield from value.keywords.items()
    elif inspect.ismethod(value):
        yield name, value.__self__
        yield name, value.__func__
    elif inspect.isfunction(value):
        if _package(value) not in _FOREIGN or value.__closure__ or hasattr(value, "__wrapped__"):
            yield from _variables(value)
    elif isinstance(value, nn.Module):
        torchs = vars(nn.Module()).keys()  # parameters, submodules, hooks and other records
        yield from ((f"{dot}{k}", part) for k, part in vars(value).items() if k not in torchs)
    elif _package(type(value)) not in _FOREIGN:
        yield from ((f"{dot}{key}", part) for key, part in getattr(value, "__dict__", {}).items())
        call = type(value).__call__ if callable(value) else None
        if isinstance(call, types.FunctionType):
            yield from _variables(call)


def _package(value: Any) -> str:
    return str(getattr(value, "__module__", "")).partition(".")[0]


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The outside variables that ``function`` names, its defaults, and the function that it wraps."""
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield "", wrapped
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield key, cell.cell_contents
        except ValueError:  # not yet bound
            continue
    for key in _names(function.__code__):
        if key in function.__globals__:
            yield key, function.__globals__[key]
    for key, parameter in inspect.signature(function, follow_wrapped=False).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            yield key, parameter.default


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):  # comprehensions and inner functions
            yield from _names(constant)
