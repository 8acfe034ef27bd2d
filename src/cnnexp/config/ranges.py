"""The ranges that settings of several parts have in common, and the messages about what lies outside."""

from __future__ import annotations

from collections.abc import Collection

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
        if not (isinstance(value, int) and value >= 1):
            other = f"{instead} or " if instead else ""
            raise ConfigError(f"{part}.{name}={value}: must be {other}a whole number, at least 1")


def check_one_of(key: str, value: object, allowed: Collection[str]) -> None:
    """Make sure that ``value``, that of ``key``, is one of those ``allowed``.

    Raises:
        ConfigError: It is not.
    """
    if value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(allowed)}")
