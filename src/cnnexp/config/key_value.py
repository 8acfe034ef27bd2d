"""``key=value`` on the command line of any command: Hydra's parser reads it, as for ``cnnexp.train``."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException


def value_of(argument: str) -> Any:
    """The value in ``argument``: text without its quotes, a number, a list or null.

    What the grammar has no word for, such as the name of a file with brackets in it, is taken as it
    stands, and so is a list of values as of a sweep.
    """
    raw = argument.partition("=")[2]
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:
        return raw
    return raw if override.is_sweep_override() else override.value()


def text_of(argument: str) -> str:
    """The value in ``argument`` as text: without its quotes, and else as it was typed."""
    value = value_of(argument)
    return value if isinstance(value, str) else argument.partition("=")[2]
