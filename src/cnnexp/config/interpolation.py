"""Which setting is to blame where a value that is wrong came by an interpolation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cnnexp.config.errors import ConfigError

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
    given = dict(_interpolations(raw(config)))
    key = text.partition("=")[0]
    while key in given:
        if match := _OF_A_KEY.fullmatch(given[key]):
            text = text.replace(f"{key}=", f"{match[1]}=", 1)
            key = match[1]
            continue
        if _OF_THE_ENVIRONMENT.fullmatch(given[key]) and _OF_TYPES.search(text):
            text += (
                f"; the environment holds text alone, and oc.decode reads the value from it: "
                f"""'{key}="${{oc.decode:{given[key]}}}"'"""
            )
        break
    return error if text == str(error) else ConfigError(text)


def raw(config: DictConfig) -> dict[Any, Any]:
    """``config`` in plain types, unresolved: an interpolation is its text, what is missing ``???``."""
    plain = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    assert isinstance(plain, dict)
    return plain


def _interpolations(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, child in node.items():
        key = f"{prefix}{name}"
        if isinstance(child, dict):
            if key != "hydra":
                yield from _interpolations(child, f"{key}.")
        elif isinstance(child, str) and "${" in child:
            yield key, child
