"""Check a whole config before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnexp.config.errors import ConfigError, did_you_mean
from cnnexp.config.schema import DataConfig, TrainConfig

__all__ = ["check_types"]


def check_types(config: Mapping[str, Any]) -> TrainConfig:
    """``config`` (plain types) as a typed :class:`TrainConfig`.

    Raises:
        ConfigError: A key is unknown or missing, a value has the wrong type or is out of range.
    """
    schema = OmegaConf.structured(TrainConfig)
    given = dict(config)
    if isinstance(data := given.get("data"), Mapping):
        given["data"] = DataConfig.with_loader(data)
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(schema, given))
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, config)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    assert isinstance(typed, TrainConfig)
    return typed


def _explain(error: OmegaConfBaseException, config: Mapping[str, Any]) -> str:
    """OmegaConf's message in one line that names key and value."""
    text = (str(error).splitlines() or [type(error).__name__])[0].strip()
    key = error.full_key or ""
    if "not in" in text and key:  # ConfigKeyError: Key 'x' not in 'DataConfig'
        parent, _, name = key.rpartition(".")
        known = _known_fields(error)
        return f"{key}: there is no key '{name}' in {parent or 'the config'}.{did_you_mean(name, known)}"
    value = _at(config, key.split("."))
    return f"{key}={value}: {text}" if key else text


def _known_fields(error: OmegaConfBaseException) -> list[str]:
    parent = error.object_type
    return list(getattr(parent, "__dataclass_fields__", {}))


def _at(config: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if not isinstance(config, Mapping) or key not in config:
            return "?"
        config = config[key]
    return config
