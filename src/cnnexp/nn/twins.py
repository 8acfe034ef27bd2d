"""The layers of ``torch.nn`` that have a twin here, and how a layer is changed into its twin, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from cnnexp.nn.layer import Layer

REPLACEMENTS: dict[type[nn.Module], type[Layer]] = {}
_LAZY: dict[type[nn.Module], type[Layer]] = {}

Twin = TypeVar("Twin", bound=type[Layer])


def replaces(theirs: type[nn.Module]) -> Callable[[Twin], Twin]:
    """Let the decorated class, which subclasses ``theirs``, stand for it in ``replace_layers``."""

    def enter(ours: Twin) -> Twin:
        (_LAZY if issubclass(theirs, LazyModuleMixin) else REPLACEMENTS)[theirs] = ours
        return ours

    return enter


def twin_of(kind: type[nn.Module]) -> type[Layer] | None:
    """The twin of exactly the class ``kind``, lazy or not; None without one."""
    return REPLACEMENTS.get(kind) or _LAZY.get(kind)


def is_replaced(layer: nn.Module) -> bool:
    """Whether somebody has put a function of his own in the place of what computes the layer's output.

    Of a convolution that is also ``_conv_forward``, by which programs pad the one way and the other.
    """
    return not {"forward", "_conv_forward"}.isdisjoint(vars(layer))


def plain_class(layer: nn.Module) -> type[nn.Module]:
    """The class of ``layer``, without the subclass that parametrizations make of it."""
    return parametrize.type_before_parametrizations(layer)


def become(layer: nn.Module, kind: type[nn.Module]) -> None:
    """Change the class of ``layer`` to ``kind``; its parametrizations stay.

    A parametrised layer has a class of its own, in which the parametrised names are properties. It
    gets a new one, since copies of a layer share theirs.
    """
    if parametrize.is_parametrized(layer):
        shown = {k: v for k, v in vars(type(layer)).items() if k not in _OF_EVERY_CLASS}
        kind = type(f"Parametrized{kind.__name__}", (kind,), shown)
    layer.__class__ = kind


_OF_EVERY_CLASS = ("__dict__", "__doc__", "__module__", "__weakref__")
