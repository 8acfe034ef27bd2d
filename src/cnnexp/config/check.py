"""Check a whole config before anything runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from cnnexp.config.compose import conf_dir
from cnnexp.config.errors import ConfigError
from cnnexp.config.regularization import regularization_schema, with_targets
from cnnexp.config.schema import DataConfig, TrainConfig
from cnnexp.runs.files import leaves
from cnnexp.suggestions import did_you_mean

# Parts of a config that have keys of their own
_PARTS = tuple(
    each.name
    for each in fields(TrainConfig)
    if str(each.type).startswith("dict") or str(each.type).endswith(("Config", "Settings"))
)


def check_types(config: Mapping[str, Any]) -> TrainConfig:
    """``config`` (plain types) as a typed :class:`TrainConfig`.

    Raises:
        ConfigError: A key is unknown or missing, a value has the wrong type or is out of range.
    """
    schema = OmegaConf.structured(TrainConfig)
    schema.regularization = regularization_schema()
    given = dict(config)
    if isinstance(data := given.get("data"), Mapping):
        given["data"] = DataConfig.with_loader(data)
    own = {}
    if isinstance(methods := given.get("regularization"), Mapping):
        own = with_targets(methods)
        given["regularization"] = {k: v for k, v in methods.items() if k not in own}
    try:
        merged = OmegaConf.merge(schema, given)
        _check_finite("regularization", merged.regularization)
        typed = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, config)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    assert isinstance(typed, TrainConfig)
    typed.regularization.own = own
    return typed


def _check_finite(part: str, node: DictConfig) -> None:
    """Make sure that no number of ``part`` is infinite or NaN, whatever ranges its classes check."""
    for key, value in leaves(OmegaConf.to_container(node), part):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value}: must be finite")


def _explain(error: OmegaConfBaseException, config: Mapping[str, Any]) -> str:
    """OmegaConf's message in one line that names key and value."""
    text = (str(error).splitlines() or [type(error).__name__])[0].strip()
    key = error.full_key or ""
    if "not in" in text and key:  # ConfigKeyError: Key 'x' not in 'DataConfig'
        parent, _, name = key.rpartition(".")
        known = getattr(error.object_type, "__dataclass_fields__", ())
        return f"{key}: there is no key '{name}' in {parent or 'the config'}.{did_you_mean(name, known)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is missing from the config, and a run needs it"
    value = _at(config, key.split("."))
    replaced = [part for part in _PARTS if not isinstance(config.get(part, {}), Mapping)]
    part = key or next(iter(replaced), "")
    if part in _PARTS and not isinstance(_at(config, [part]), Mapping):
        return _no_choice(part, _at(config, [part]))
    if match := re.search(r"of type '(\w+)' could not be converted to (\w+)", text):
        kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        if match[2] in kinds:
            return f"{key}={value}: must be {kinds[match[2]]}"
    if text.startswith("Incompatible value 'None'"):
        return f"{key}=null: must have a value"
    return f"{key}={value}: {text}" if key else text


def _no_choice(part: str, value: object) -> str:
    """What to say where ``part=value`` chose from a group that is none."""
    groups = {
        group.name: sorted(file.stem for file in group.glob("*.yaml"))
        for group in sorted(conf_dir().iterdir())
        if group.is_dir() and group.name != "hydra"
    }
    given = "null" if value is None else value
    if part in groups:
        if value is None:  # as at the end of a file that was cut
            return f"{part}: its values are missing; a choice has them ({', '.join(groups[part])})"
        return (
            f"{part}={given}: must be a choice ({', '.join(groups[part])}), whose values may be set"
        )
    meant = [group for group, choices in groups.items() if given in choices]
    hint = f" Did you mean {meant[0]}={given}?" if meant else ""
    devices = ""
    if part == "trainer" and not meant:
        devices = f" Devices are chosen by accelerator={'|'.join(groups['accelerator'])}."
    return (
        f"{part}={given}: there is no group '{part}' to choose from; set its values, {part}.<key>=….{hint}"
        f"{devices} The groups are {', '.join(groups)}"
    )


def _at(config: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if not isinstance(config, Mapping) or key not in config:
            return "?"
        config = config[key]
    return config
