"""The ranges that settings of several parts have in common, and the messages about what lies outside."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cnnexp.config.errors import ConfigError


def check_whole(part: str, settings: object, *names: str, instead: str = "") -> None:
    """Make sure that each of these ``settings`` is a whole number, at least 1.

    Args:
        part: Of the config, for messages.
        settings: What has them as attributes.
        names: Theirs.
        instead: What else is allowed, for messages.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        value = getattr(settings, name)
        if not (type(value) is int and value >= 1):
            other = f"{instead} or " if instead else ""
            raise ConfigError(f"{part}.{name}={value}: must be {other}a whole number, at least 1")


def check_above_0(part: str, settings: object, *names: str) -> None:
    """Make sure that each of these ``settings`` is a number above 0, or None where that is its default.

    Arguments as of :func:`check_whole`.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        value, may_be_none = getattr(settings, name), getattr(type(settings), name) is None
        if value is None and may_be_none:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            other = ", or null" if may_be_none else ""
            raise ConfigError(f"{part}.{name}={value}: must be a number above 0{other}")


def check_list(key: str, value: object, example: str, instead: str = "") -> None:
    """Make sure that ``value``, that of ``key``, is a list.

    Args:
        key: For messages.
        value: What it is.
        example: A list, as it is written.
        instead: What else is allowed, for messages.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        other = f"{instead} or " if instead else ""
        raise ConfigError(f"{key}={value}: must be {other}a list, as in {example}")


def check_one_of(key: str, value: object, allowed: Collection[str]) -> None:
    """Make sure that ``value``, that of ``key``, is one of those ``allowed``.

    Raises:
        ConfigError: It is not.
    """
    if value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(allowed)}")
