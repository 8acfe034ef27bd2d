"""The layers of ``torch.nn`` that have a twin here, and how a layer is changed into its twin, in place."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from cnnexp.nn.activation import GELU, LeakyReLU, ReLU, Tanh
from cnnexp.nn.conv import Conv2d
from cnnexp.nn.dropout import Dropout
from cnnexp.nn.layer import Layer
from cnnexp.nn.lazy import LazyBatchNorm2d, LazyConv2d, LazyLinear
from cnnexp.nn.linear import Linear
from cnnexp.nn.loss import CrossEntropyLoss
from cnnexp.nn.norm import BatchNorm2d
from cnnexp.nn.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d

__all__ = ["REPLACEMENTS", "become", "plain_class", "twin_of"]

REPLACEMENTS: dict[type[nn.Module], type[Layer]] = {
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.Conv2d: Conv2d,
    nn.CrossEntropyLoss: CrossEntropyLoss,
    nn.Dropout: Dropout,
    nn.GELU: GELU,
    nn.LeakyReLU: LeakyReLU,
    nn.Linear: Linear,
    nn.MaxPool2d: MaxPool2d,
    nn.ReLU: ReLU,
    nn.Tanh: Tanh,
}

_LAZY: dict[type[nn.Module], type[Layer]] = {
    nn.LazyBatchNorm2d: LazyBatchNorm2d,
    nn.LazyConv2d: LazyConv2d,
    nn.LazyLinear: LazyLinear,
}


def twin_of(kind: type[nn.Module]) -> type[Layer] | None:
    """The twin of exactly the class ``kind``, lazy or not; None without one."""
    return REPLACEMENTS.get(kind) or _LAZY.get(kind)


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
