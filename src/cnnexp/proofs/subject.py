"""What is proved: a function, an autograd Function or a Module, called again and again.

A call leaves all that it is given as it was: parameters, buffers, flags, random states. What it is
differentiated by are its *leaves*: the floating-point tensors among its arguments, and what the
Modules that it uses hold and train.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Held", "Subject"]


class Held(NamedTuple):
    """A tensor that the subject holds itself: a parameter, a buffer, a tensor in its closure."""

    name: str
    tensor: Tensor


class Subject:
    """``function`` with its name, the names of its arguments, and what it holds.

    Attributes:
        call: The callable; of an autograd Function its ``apply``.
        name: The function's or Module's own name, never "apply".
        modules: The Modules that it is or uses, by name ("" for itself).
        trained: The tensors that it holds and that require a gradient.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        if isinstance(function, type) and issubclass(function, torch.autograd.Function):
            function = function.apply
        self.call = function
        self.modules = dict(_modules(function))
        self.trained = list(_trained(self.modules, function))
        self.given_name = name
        self.name = name or _name(function)

    def named_after(self, outputs: Sequence[Tensor]) -> None:
        """A lambda goes by the autograd Function that it calls, if the output comes from one."""
        node = outputs[0].grad_fn if outputs else None
        if self.name == "<lambda>" and isinstance(node, torch.autograd.function.BackwardCFunction):
            self.name = type(node).__name__.removesuffix("Backward")

    def argument_names(self, arguments: Sequence[Any], keywords: dict[str, Any]) -> list[str]:
        """A name for each positional argument, as the function's own signature has it."""
        named: list[str] = []
        try:
            bound = _signature(self.call).bind(*arguments, **keywords)
            for key, value in bound.arguments.items():
                kind = bound.signature.parameters[key].kind
                if kind is inspect.Parameter.VAR_POSITIONAL:
                    named += [f"{key}[{i}]" for i in range(len(value))]
                elif kind is not inspect.Parameter.VAR_KEYWORD and key not in keywords:
                    named.append(key)
        except (TypeError, ValueError):  # builtin functions, wrong calls
            named = []
        if len(named) == len(arguments):
            return named
        return [f"argument {i + 1}" for i in range(len(arguments))]


def _function_class(function: Any) -> type | None:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return owner
    return None


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    owner = getattr(function, "__self__", None)
    known = _function_class(function)
    if known is not None:
        return known.__name__
    if isinstance(function, nn.Module):
        return type(function).__name__
    if isinstance(owner, nn.Module) and function.__name__ in ("forward", "__call__"):
        return type(owner).__name__
    return getattr(function, "__name__", type(function).__name__)


def _signature(function: Any) -> inspect.Signature:
    known = _function_class(function)
    if known is None:
        target = function.forward if isinstance(function, nn.Module) else function
        return inspect.signature(target)
    signature = inspect.signature(known.forward)
    base = torch.autograd.Function
    if known.setup_context is base.setup_context:  # forward(ctx, …)
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    return signature


def _modules(function: Any) -> Iterator[tuple[str, nn.Module]]:
    """The Module that ``function`` is, whose method it is, or those that it closes over."""
    if isinstance(function, functools.partial):
        for value in (function.func, *function.args, *function.keywords.values()):
            if isinstance(value, nn.Module) or value is function.func:
                yield from _modules(value)
        return
    owner = getattr(function, "__self__", None)
    for candidate in (function, owner):
        if isinstance(candidate, nn.Module):
            yield "", candidate
            return
    for name, value in _closure(function).items():
        if isinstance(value, nn.Module):
            yield name, value


def _closure(function: Any) -> dict[str, Any]:
    """The variables outside of a Python function that its code names."""
    try:
        found = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return {}
    return {**found.globals, **found.nonlocals}


def _trained(modules: dict[str, nn.Module], function: Any) -> Iterator[Held]:
    seen: set[int] = set()
    for prefix, module in modules.items():
        named = itertools.chain(module.named_parameters(prefix), module.named_buffers(prefix))
        for name, tensor in named:
            if tensor.requires_grad and tensor.is_leaf and id(tensor) not in seen:
                seen.add(id(tensor))
                yield Held(name, tensor)
    for name, value in _closure(function).items():
        if isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
            yield Held(name, value)
