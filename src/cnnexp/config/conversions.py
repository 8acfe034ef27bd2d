"""What YAML cannot hold and arguments ask for: functions by name, spans of time, settings in a class."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from cnnexp.config.errors import ConfigError

_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d):(\d\d)")
_UNITS = ("days", "hours", "minutes", "seconds")


def converted(
    key: str, hint: Any, value: Any, locate: Callable[[str, object], Callable[..., Any]]
) -> Any:
    """``value`` as an argument annotated with ``hint`` takes it; unchanged where that is what it is.

    Args:
        key: Its place in the config, for messages.
        hint: The annotation; of a union, each part counts.
        value: From YAML.
        locate: (place in the config, dotted name) → the function of that name, if it is allowed.

    Returns:
        A function for its dotted name, a ``timedelta`` for ``{minutes: 5}`` or ``"00:00:05:00"``
        (days, hours, minutes, seconds), a dataclass for the mapping of its fields, whole numbers for
        the keys of a mapping from whole numbers (JSON has made text of them).

    Raises:
        ConfigError: It is none of these, where one is needed.
    """
    kinds = _parts(hint)
    if isinstance(value, str) and "." in value and any(_is_callable(kind) for kind in kinds):
        return locate(key, value)
    if timedelta in kinds and isinstance(value, (str, Mapping)):
        return _span(key, value)
    if isinstance(value, Mapping):
        for kind in kinds:
            if dataclasses.is_dataclass(kind) and inspect.isclass(kind):
                return _dataclass(key, kind, value)
            if _is_numbered(kind):
                return {_number(name): item for name, item in value.items()}
    return value


def _parts(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _is_callable(kind: Any) -> bool:
    return (typing.get_origin(kind) or kind) in (Callable, typing.Callable)


def _is_numbered(kind: Any) -> bool:
    return typing.get_origin(kind) is dict and typing.get_args(kind)[0] is int


def _number(name: object) -> object:
    return int(name) if isinstance(name, str) and name.isdigit() else name


def _span(key: str, value: str | Mapping[str, Any]) -> timedelta:
    try:
        if isinstance(value, Mapping):
            return timedelta(**value)
        match = _CLOCK.fullmatch(value.strip())
        if match is None:
            raise ValueError(value)
        return timedelta(**dict(zip(_UNITS, map(int, match.groups()), strict=True)))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{key}={value}: must be a span of time, as {{minutes: 5}} or '00:00:05:00', which is days, "
            f"hours, minutes, seconds"
        ) from error


def _dataclass(key: str, kind: type, value: Mapping[str, Any]) -> Any:
    names = [field.name for field in dataclasses.fields(kind)]
    for name in value:
        if name not in names:
            raise ConfigError(f"{key}.{name}: there is no such setting; known: {', '.join(names)}")
    return kind(**value)
