"""Settings of a program as the overrides of a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from cnnexp.config import ConfigError

__all__ = ["overrides_of"]

_PLAIN = re.compile(r"[\w.\-/]+", re.ASCII)


def overrides_of(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """``{"optimizer.lr": 0.1}`` as ``["optimizer.lr=0.1"]``; a list of such texts as it is.

    Raises:
        ConfigError: A value is of a type that no config holds.

    Examples:
        >>> overrides_of({"optimizer": "sgd", "data.classes": ["cat", "dog"], "model.init": None})
        ['optimizer=sgd', 'data.classes=[cat,dog]', 'model.init=null']
    """
    if isinstance(settings, str):
        raise ConfigError(f"overrides={settings!r}: give a list, [{settings!r}], or a dict")
    if isinstance(settings, Mapping):
        return [f"{key}={_written(key, value)}" for key, value in settings.items()]
    for each in settings:
        if not isinstance(each, str):
            raise ConfigError(f"overrides: {each!r} is no text such as 'optimizer.lr=0.1'")
    return list(settings)


def _written(key: str, value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false"):
            return value
        return "'" + value.replace("\\", "\\\\").replace("'", r"\'") + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_written(key, v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_written(key, v) for v in value) + "]"
    raise ConfigError(
        f"{key}={value!r}: a {type(value).__name__} has no place in a config; give a name, a number, a list "
        f"or a dict; a class of yours by {{'{key}._target_': 'module.Class'}} and allow_targets=['module.']"
    )
