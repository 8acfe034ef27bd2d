"""``key=value`` settings of the commands that use a trained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnnexp.config.errors import ConfigError, did_you_mean
from cnnexp.config.resumption import stopped_run
from cnnexp.config.targets import allowed_prefixes
from cnnexp.runs import RunFolder

__all__ = ["Settings", "read_settings"]


@dataclass(frozen=True)
class Settings:
    """What was given on the command line.

    Attributes:
        folder: Of ``run=``.
        values: By key, those not given with their defaults.
        data: What begins with ``data=`` or ``data.``, as it stands.
        extra_targets: Prefixes allowed by ``allow_targets=[…]`` or the environment.
    """

    folder: RunFolder
    values: Mapping[str, str]
    data: Sequence[str] = ()
    extra_targets: Sequence[str] = field(default_factory=tuple)


def read_settings(
    arguments: Sequence[str], defaults: Mapping[str, str], *, data: bool = False
) -> Settings:
    """Read ``run=…`` and the keys of ``defaults``.

    Args:
        arguments: Each ``key=value``.
        defaults: The keys that are known beside ``run``, ``output_dir`` (where ``run=latest`` looks) and
            ``allow_targets``, with their values.
        data: Take settings of ``data`` as well.

    Raises:
        ConfigError: A key is unknown, ``run=`` is missing, or names no run.
    """
    known = ["run", "output_dir", *defaults, "allow_targets", *(["data"] if data else [])]
    values, of_data = dict(defaults), []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(
                f"{argument}: must be key=value, with a key out of {', '.join(known)}"
            )
        if data and (key.lstrip("+~") == "data" or key.lstrip("+~").startswith("data.")):
            of_data.append(argument)
        elif key in defaults:
            values[key] = value
        elif key not in known:
            raise ConfigError(
                f"{argument}: there is no key {key}; known: {', '.join(known)}.{did_you_mean(key, known)}"
            )
    folder = stopped_run(arguments)
    if folder is None:
        raise ConfigError(
            "run= is missing: name a run folder, run=outputs/train/<name>/<time>, or run=latest"
        )
    return Settings(folder, values, of_data, tuple(allowed_prefixes(arguments)))
