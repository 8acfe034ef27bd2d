"""The subject of a proof: a function, an autograd Function or a Module, which is called many times.

A call leaves everything that it is given unchanged: parameters, buffers, flags, random states. The
tensors with respect to which it is differentiated are its *leaves*: the floating-point tensors among
its arguments, and those that the Modules that it uses hold and train.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cnnexp.proofs.holdings import holdings


class Held(NamedTuple):
    """A tensor that the subject holds itself: a parameter, a buffer, a tensor in its closure."""

    name: str
    tensor: Tensor


class Subject:
    """``function`` with its name, the names of its arguments, and what it holds.

    Attributes:
        call: The callable; for an autograd Function its ``apply``.
        name: The function's or Module's own name, never "apply".
        modules: The Modules that it is or uses, by name ("" for itself).
        trained: The tensors that it holds and that require a gradient.
        loose: Other tensors that it holds, outside Modules.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        if isinstance(function, type) and issubclass(function, torch.autograd.Function):
            function = function.apply
        self.call = function
        self.modules: dict[str, nn.Module] = {}
        self.trained: list[Held] = []
        self.loose: list[Tensor] = []
        self.look_into("", function)
        self.name = name or _name(function)

    def look_into(self, name: str, value: Any) -> None:
        """Record the Modules and tensors that ``value`` holds, each once."""
        for key, found in holdings(name, value):
            if isinstance(found, Tensor):
                self._note(key, found)
            elif not any(found is module for module in self.modules.values()):
                self.modules[key if key not in self.modules else f"{key}′"] = found
                for full, tensor in _registered(key, found):
                    if tensor.requires_grad:
                        self._note(full, tensor)

    def parts(self) -> Iterator[nn.Module]:
        """All Modules, with their submodules."""
        for module in self.modules.values():
            yield from module.modules()

    def note_reached(self, leaves: Sequence[Tensor]) -> None:
        """Record tensors that a call was found to use although the search did not find who holds them."""
        for tensor in leaves:
            sizes = "×".join(map(str, tensor.shape)) or "number"
            number = len(self.trained) + 1
            self._note(f"held tensor {number} ({sizes})", tensor)

    def _note(self, name: str, tensor: Tensor) -> None:
        held = [*self.loose, *(each.tensor for each in self.trained)]
        if any(tensor is each for each in held):
            return
        if tensor.requires_grad and tensor.is_leaf:
            self.trained.append(Held(name, tensor))
        else:
            self.loose.append(tensor)

    def uninitialised(self) -> list[str]:
        """The names of lazy parameters and buffers that have no shape yet."""
        return [
            name
            for prefix, module in self.modules.items()
            for name, tensor in _registered(prefix, module)
            if is_lazy(tensor)
        ]

    def named_after(self, outputs: Sequence[Tensor]) -> None:
        """Name a lambda after the autograd Function that it calls, if the output comes from one."""
        node = outputs[0].grad_fn if outputs else None
        if self.name == "<lambda>" and isinstance(node, torch.autograd.function.BackwardCFunction):
            self.name = type(node).__name__.removesuffix("Backward")

    def argument_names(self, arguments: Sequence[Any], keywords: dict[str, Any]) -> list[str]:
        """A name for each positional argument, taken from the function's signature."""
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


def _registered(name: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of ``module``, which is called ``name``."""
    return itertools.chain(module.named_parameters(name), module.named_buffers(name))


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
    calls = ("forward", "__call__", nn.Module.__call__.__name__)
    if isinstance(owner, nn.Module) and function.__name__ in calls:
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
