"""Which setting is to blame where a value that is wrong came by an interpolation."""

from __future__ import annotations

import re
from collections.abc import Iterator

from omegaconf import DictConfig

from cnnexp.config.errors import ConfigError

__all__ = ["blamed"]

_OF_A_KEY = re.compile(r"\$\{([\w.]+)\}")
_OF_THE_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^{}]*\}")
_OF_TYPES = re.compile(r"but is text|must be a (whole )?number|must be true or|of type 'str'")


def blamed(error: ConfigError, config: DictConfig) -> ConfigError:
    """``error`` about a value of ``config``, with the key that the user has set, and how to mend it.

    What ``${seed}`` brought about is said of seed. The environment holds text alone: where
    ``${oc.env:NAME}`` was to be a number, ``oc.decode`` is named.

    Args:
        error: Of which the message begins with ``key=value:``.
        config: As composed, with its interpolations.
    """
    text = str(error)
    raw = dict(_interpolations(config))
    key = text.partition("=")[0]
    while key in raw:
        if match := _OF_A_KEY.fullmatch(raw[key]):
            text = text.replace(f"{key}=", f"{match[1]}=", 1)
            key = match[1]
            continue
        if _OF_THE_ENVIRONMENT.fullmatch(raw[key]) and _OF_TYPES.search(text):
            text += (
                f"; the environment holds text alone, and oc.decode reads the value from it: "
                f"""'{key}="${{oc.decode:{raw[key]}}}"'"""
            )
        break
    return error if text == str(error) else ConfigError(text)


def _interpolations(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name in node:
        child = node._get_node(name)
        key = f"{prefix}{name}"
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            if key != "hydra":
                yield from _interpolations(child, f"{key}.")
        elif child is not None and not isinstance(child, list) and child._is_interpolation():
            yield key, str(child._value())
