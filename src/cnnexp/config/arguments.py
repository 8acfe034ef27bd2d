"""The command line of ``cnnexp.train``: Hydra's own flags and overrides, read in this one place."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra import __version__ as hydra_version
from hydra.core.plugins import Plugins
from hydra.plugins.completion_plugin import CompletionPlugin

from cnnexp.config.errors import ConfigError
from cnnexp.config.hydra_internals import flags_parser
from cnnexp.environment import variable
from cnnexp.suggestions import nearest
from cnnexp.version import __version__

_MODES = ("run", "multirun", "cfg", "info", "shell_completion")


class _Parser(argparse.ArgumentParser):
    """Hydra's parser, that says what is wrong by a :class:`ConfigError`."""

    def error(self, message: str) -> NoReturn:
        """Raise it with ``message``."""
        raise ConfigError(f"{message}; --help shows the settings, --hydra-help the flags")


def read_arguments(arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser, which Hydra makes its help from, and what it has read.

    Flags and overrides may stand in any order.

    Raises:
        ConfigError: There is no such flag, or these do not go together.
    """
    parser = _Parser(parents=[flags_parser()], add_help=False, conflict_handler="resolve")
    said = f"cnnexp {__version__}, Hydra {hydra_version}"
    parser.add_argument("--version", action="version", version=said, help="show it and exit")
    flags, unknown = parser.parse_known_intermixed_args(list(arguments))
    for each in unknown:
        if each.startswith("-"):
            raise ConfigError(_no_flag(each, parser))
    flags.overrides += unknown  # what follows a lone --
    _check(flags)
    if flags.shell_completion:
        _check_completion(flags.overrides)
    if flags.config_path is not None:  # Hydra would look beside its caller's file
        flags.config_path = str(Path(flags.config_path).resolve())
    return parser, flags


def _no_flag(given: str, parser: argparse.ArgumentParser) -> str:
    name, _, value = given.partition("=")
    known = re.findall(r"--[\w-]+", parser.format_usage())
    close = nearest(name, known, least=0.75)
    hint = f" Did you mean '{close}'?" if close else ""
    setting = f"{name.lstrip('-')}={value or '…'}"
    return (
        f"{given}: there is no flag {name}.{hint} A setting has no dashes, as in {setting}; --help shows the "
        f"settings, --hydra-help the flags"
    )


def _check(flags: argparse.Namespace) -> None:
    if flags.experimental_rerun is not None:
        raise ConfigError(
            f"--experimental-rerun={flags.experimental_rerun}: is not offered, as a pickle can run anything; "
            f"a run's config.yaml runs again by --config-dir <run folder> --config-name config"
        )
    modes = [
        f"--{name.replace('_', '-')}"
        for name in _MODES
        if getattr(flags, name) not in (None, False)
    ]
    if len(modes) > 1:
        raise ConfigError(f"{' and '.join(modes)} exclude each other; give one of them")
    if flags.resolve and flags.cfg is None and not flags.help:
        raise ConfigError("--resolve goes with --cfg or --help")
    if flags.package is not None and flags.cfg is None:
        raise ConfigError(f"--package={flags.package}: goes with --cfg job|hydra|all")


def _check_completion(overrides: Sequence[str]) -> None:
    found = Plugins.instance().discover(CompletionPlugin)
    shells = sorted(plugin.provides() for plugin in found if issubclass(plugin, CompletionPlugin))
    task, _, shell = overrides[0].partition("=") if len(overrides) == 1 else ("", "", "")
    if task not in ("install", "uninstall", "query") or shell not in shells:
        raise ConfigError(
            f"--shell-completion {' '.join(overrides)}: must be followed by install=<shell> or "
            f"uninstall=<shell>, with a shell out of {', '.join(shells)}"
        )
    if task == "query" and variable("COMP_LINE") is None:
        raise ConfigError(
            f"--shell-completion {overrides[0]}: is what a shell asks; for yourself, install={shell}"
        )


def key_of(override: str) -> str:
    """The key of ``override``, without ``+``, ``~`` and a package: ``hydra/launcher``, ``seed``."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].strip()


def quoted(key: str, value: object) -> str:
    """The override that sets ``key`` to the text ``value``, whatever characters it has."""
    text = str(value).replace("'", r"\'")
    return f"{key}='{text}'"
