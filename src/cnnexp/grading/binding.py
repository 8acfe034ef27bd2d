"""Give a student's function its arguments, by the names that it uses for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnexp.grading.contract import ALIASES, plain

Function = Callable[..., Any]
_EMPTY = inspect.Parameter.empty


def parameters_of(function: Function) -> list[inspect.Parameter]:
    """The parameters of a function that take one value each."""
    single = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    single = (*single, inspect.Parameter.POSITIONAL_ONLY)
    return [p for p in inspect.signature(function).parameters.values() if p.kind in single]


def meant(name: str, among: Sequence[str]) -> str | None:
    """Which of the arguments ``among`` a parameter of this name stands for."""
    word = plain(name)
    for argument in among:
        if word == plain(argument):
            return argument
    return next((a for a in among if word in ALIASES.get(a, ())), None)


def assign(function: Function, known: Sequence[str], loose: Sequence[str]) -> dict[str, str]:
    """Which argument each parameter of ``function`` gets.

    Args:
        function: The student's.
        known: The arguments that there are, in the order in which they come where names tell nothing.
        loose: Those among ``known`` that a parameter of an unknown name may get, in this order.

    Returns:
        Parameter → argument; parameters of unknown names that have a default are left out.
    """
    parameters = parameters_of(function)
    found: dict[str, str] = {}
    for parameter in parameters:
        free = [a for a in known if a not in found.values()]
        argument = meant(parameter.name, free)
        if argument is not None:
            found[parameter.name] = argument
    for parameter in parameters:
        if parameter.name not in found and parameter.default is _EMPTY:
            rest = [a for a in loose if a not in found.values()]
            if rest:
                found[parameter.name] = rest[0]
    return {p.name: found[p.name] for p in parameters if p.name in found}


def call(function: Function, roles: Mapping[str, str], values: Mapping[str, Any]) -> Any:
    """Call ``function`` with the values of the arguments that its parameters stand for."""
    positional, keywords = [], {}
    skipped = False
    for parameter in parameters_of(function):
        if parameter.name not in roles or roles[parameter.name] not in values:
            skipped = True
            continue
        value = values[roles[parameter.name]]
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY or (
            skipped and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
        ):
            keywords[parameter.name] = value
        else:
            positional.append(value)
    return function(*positional, **keywords)


_IN_DICTS = {
    "stride": ("stride", "s"),
    "padding": ("pad", "padding", "p"),
    "dilation": ("dilation",),
    "groups": ("groups",),
    "kernel_size": ("pool_height", "pool_width", "kernel_size", "pool_size", "f", "size"),
    "pool_kernel": ("pool_height", "pool_width", "kernel_size", "pool_size"),
    "pool_stride": ("pool_stride",),
    "eps": ("eps", "epsilon"),
}


class Read(dict[str, Any]):
    """A dict that remembers which of its keys were read."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, as of any dict."""
        self.keys_read.add(key)
        return super().get(key, default)


def asked(keys: set[str]) -> set[str]:
    """The settings that the keys of a dict of parameters stand for."""
    return {setting for setting, names in _IN_DICTS.items() if keys & set(names)}


def settings_as_dict(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under all names that a dict of parameters may have them by."""
    made: dict[str, Any] = {"mode": "train", "momentum": 0.9}
    for setting, value in settings.items():
        made |= dict.fromkeys(_IN_DICTS.get(setting, (setting,)), value)
    return made


_IN_POOL_DICTS = {
    "pool_kernel": ("pool_height", "pool_width", "kernel_size", "pool_size"),
    "pool_stride": ("stride", "pool_stride"),
}


def pool_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a block's pool under all names that a dict of parameters may have them by."""
    return {
        name: settings[setting]
        for setting, names in _IN_POOL_DICTS.items()
        if setting in settings
        for name in names
    }


def pool_asked(keys: set[str]) -> set[str]:
    """The settings of a block's pool that the keys of its dict stand for."""
    return {setting for setting, names in _IN_POOL_DICTS.items() if keys & set(names)}
