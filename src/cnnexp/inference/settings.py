"""The ``key=value`` settings of the commands that use a trained network."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnnexp.config.errors import ConfigError
from cnnexp.config.key_value import text_of
from cnnexp.config.selection import Selected, run_to_use
from cnnexp.config.targets import allowed_prefixes
from cnnexp.inference.network import TrainedNetwork, load_trained
from cnnexp.runs import RunFolder
from cnnexp.suggestions import did_you_mean

__all__ = ["Settings", "read_settings"]


@dataclass(frozen=True)
class Settings:
    """The settings given on the command line.

    Attributes:
        run: The run that ``run=`` and ``which=`` name.
        values: The other settings by key, with defaults for those that are not given.
        data: The settings that begin with ``data=`` or ``data.``, unchanged.
        extra_targets: Prefixes allowed by ``allow_targets=[…]`` or the environment.
    """

    run: Selected
    values: Mapping[str, str]
    data: Sequence[str] = ()
    extra_targets: Sequence[str] = field(default_factory=tuple)

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return self.run.folder

    def load(self, backward: str = "native") -> TrainedNetwork:
        """The run's network, from the checkpoint that ``checkpoint=`` names; see ``load_trained``."""
        named, extra = self.values["checkpoint"] or None, self.extra_targets
        return load_trained(self.folder, named, backward=backward, extra_targets=extra)

    def say_which_run(self, command: str, *, always: bool = False) -> None:
        """Print on stderr which run is used, if ``command`` chose it, or ``always``."""
        if self.run.why or always:
            print(f"{command}: {self.run}", file=sys.stderr, flush=True)


def read_settings(
    arguments: Sequence[str], defaults: Mapping[str, str], *, data: bool = False
) -> Settings:
    """Read ``run=…``, ``which=…`` and the keys of ``defaults``.

    Args:
        arguments: The arguments, each ``key=value``.
        defaults: The further keys that are known and their values; always known are ``run``, ``which``,
            ``output_dir`` (the folder that ``run=latest`` searches) and ``allow_targets``.
        data: Whether settings of ``data`` are taken as well.

    Raises:
        ConfigError: A key is unknown, ``run=`` is missing, or it names no run.
    """
    known = ["run", "which", "output_dir", *defaults, "allow_targets", *(["data"] if data else [])]
    values, of_data = dict(defaults), []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals:
            raise ConfigError(
                f"{argument}: must be key=value, with a key out of {', '.join(known)}"
            )
        if data and (key.lstrip("+~") == "data" or key.lstrip("+~").startswith("data.")):
            of_data.append(argument)
        elif key in defaults:
            values[key] = text_of(argument)
        elif key not in known:
            raise ConfigError(
                f"{argument}: there is no key {key}; known: {', '.join(known)}.{did_you_mean(key, known)}"
            )
    run = run_to_use(arguments)
    if run is None:
        raise ConfigError(
            "run= is missing: name a run folder, run=outputs/train/<name>/<time>, a sweep, or run=latest"
        )
    return Settings(run, values, of_data, tuple(allowed_prefixes(arguments)))
