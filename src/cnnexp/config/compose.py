"""Compose a config with Hydra, and say in one sentence what is wrong if it cannot be composed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

import cnnexp
from cnnexp.config.errors import ConfigError, did_you_mean
from cnnexp.config.targets import locate

__all__ = ["Composer", "Jobs", "conf_dir", "plain_config"]


def conf_dir() -> Path:
    """The folder of the config tree: ``conf/`` of the checkout, or ``cnnexp/conf`` in a wheel."""
    package = Path(cnnexp.__file__).resolve().parent
    checkout = package.parents[1] / "conf"
    inside = package / "conf"
    return inside if inside.is_dir() or not checkout.is_dir() else checkout


def plain_config(config: DictConfig) -> dict[str, Any]:
    """The resolved ``config`` in plain types, without Hydra's own node.

    Raises:
        ConfigError: A value is missing or an interpolation cannot be resolved.
    """
    job = {key: config._get_node(key) for key in config if key != "hydra"}
    try:
        whole = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
        assert isinstance(whole, dict)
        bare = OmegaConf.create({key: whole[key] for key in job})
        plain = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is missing: add {error.full_key}=…") from error
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@dataclass(frozen=True)
class Jobs:
    """The jobs of a sweep.

    Attributes:
        overrides: Of each job, in Hydra's order.
        complete: Whether these are all jobs; else a sweeper chooses values as it goes, and the one
            entry is what its jobs share.
        swept: What is left to that sweeper.
    """

    overrides: list[list[str]]
    complete: bool
    swept: Sequence[str] = ()


class Composer:
    """Compose the configs of one command line.

    Args:
        config_name: The root config, for example ``"train"``.
        config_path: Folder to use instead of cnnexp's own config tree (``--config-path``).
        config_dir: Folder searched before the tree (``--config-dir``).
    """

    def __init__(
        self, config_name: str, config_path: str | None = None, config_dir: str | None = None
    ) -> None:
        for flag, folder in (("--config-path", config_path), ("--config-dir", config_dir)):
            if folder is not None and not Path(folder).is_dir():
                raise ConfigError(f"{flag}={folder}: there is no such folder")
        self._name = config_name
        self._path = Path(config_path).resolve() if config_path else conf_dir()
        self._dir = Path(config_dir).resolve() if config_dir else None

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one job, Hydra's node included; interpolations are not yet resolved.

        Raises:
            ConfigError: Unknown key, unknown choice, bad syntax or an interpolation that fails.
        """
        try:
            config = self._compose(overrides)
        except MissingConfigException as error:
            raise ConfigError(self._unknown_choice(error)) from error
        except OverrideParseException as error:
            raise ConfigError(_unreadable(error)) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(self._explain(error, overrides)) from error
        except yaml.YAMLError as error:
            raise ConfigError(
                f"a config file is not YAML: {' '.join(str(error).split())}"
            ) from error
        except ValueError as error:  # optimizer=null: a group's choice must be a name
            raise ConfigError(self._unnamed_choice(overrides) or _first_line(error)) from error
        HydraConfig.instance().set_config(config)  # what ${hydra:…} reads
        return config

    def _unknown_choice(self, error: MissingConfigException) -> str:
        missing = error.missing_cfg_file or ""
        group, _, choice = missing.rpartition("/")
        known = sorted(error.options or ())
        if group and not known:  # one of a list of choices
            with self._hydra() as hydra:
                known = hydra.config_loader.get_group_options(group)
        if not known:
            return f"there is no config '{missing}'. {_first_line(error)}"
        hint = did_you_mean(choice, known)
        return f"{group}={choice}: unknown choice; known: {', '.join(known)}.{hint}"

    def jobs(self, overrides: Sequence[str]) -> Jobs:
        """What a sweep over ``overrides`` runs.

        Raises:
            ConfigError: An override cannot be read.
        """
        with self._hydra() as hydra:  # which globs and group names are read with
            parser = OverridesParser.create(config_loader=hydra.config_loader)
            return self._jobs(parser, overrides)

    def _jobs(self, parser: OverridesParser, overrides: Sequence[str]) -> Jobs:
        try:
            parsed = parser.parse_overrides(list(overrides))
        except OverrideParseException as error:
            raise ConfigError(_unreadable(error)) from error
        fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        sweeper = self.compose(fixed).hydra.sweeper
        basic = sweeper._target_.rpartition(".")[2] == BasicSweeper.__name__
        if not basic:
            swept = [o.input_line or "" for o in parsed if o.is_sweep_override()]
            return Jobs([fixed], complete=False, swept=swept)
        for override in parsed:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise ConfigError(
                    f"{override.input_line}: Hydra's own sweeper tries listed values only; "
                    f"write {override.key_or_group}=value,value"
                )
        params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
        swept = parser.parse_overrides(params)
        hydra = [o for o in parsed if o.get_key_element().lstrip("+~").startswith("hydra.")]
        swept += [o for o in parsed if o not in hydra]
        batches = BasicSweeper.split_arguments(swept, max_batch_size=None)
        same = [o.input_line or "" for o in hydra]
        return Jobs([[*job, *same] for batch in batches for job in batch], complete=True)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        """As ``hydra.compose``, which cannot look where --config-dir says."""
        with self._hydra() as hydra:
            return hydra.compose_config(
                self._name, list(overrides), RunMode.RUN, with_log_configuration=False
            )

    @contextmanager
    def _hydra(self) -> Iterator[Hydra]:
        version.setbase("1.3")
        search_path = create_config_search_path(str(self._path))
        if self._dir:
            anchor = SearchPathQuery(provider="schema")
            search_path.prepend("command-line", f"file://{self._dir}", anchor)
        before = get_gh_backup()
        GlobalHydra.instance().clear()
        try:
            yield Hydra.create_main_hydra2(self._name, search_path)
        finally:
            GlobalHydra.instance().clear()
            restore_gh_from_backup(before)

    def _explain(self, error: Exception, overrides: Sequence[str]) -> str:
        """The message for an override that does not fit the config."""
        text = str(error)
        if text.startswith("Ambiguous value"):  # optimizer=adam,sgd without -m
            return f"{_first_line(error)}: to run each value, add -m (for a list, write [a,b])"
        match = re.search(r"Could not override '([^']+)'", text)
        if not match:
            return _first_line(error)
        key = match[1]
        parent, _, name = key.rpartition(".")
        given = next((o for o in overrides if o.lstrip("+~").startswith(key)), key)
        choices = [
            o for o in overrides if not o.startswith(("+", "~")) and "." not in o.split("=")[0]
        ]
        base = self._base([o for o in choices if o != given])
        node = OmegaConf.select(base, parent) if parent else None
        target = node.get("_target_") if isinstance(node, DictConfig) else None
        if target is not None and _takes(parent, target, name):
            return f"{given}: not set in the config yet; {target} takes it: add +{given}"
        of_hydra = key.startswith("hydra.")
        known = [k for k in _keys(base) if k.startswith("hydra.") == of_hydra]
        if key in known:
            return _first_line(error)
        return f"{given}: there is no key '{key}' in the config.{did_you_mean(key, known)}"

    def _unnamed_choice(self, overrides: Sequence[str]) -> str:
        with self._hydra() as hydra:
            for override in OverridesParser.create().parse_overrides(list(overrides)):
                known = hydra.config_loader.get_group_options(override.key_or_group)
                if known and not isinstance(override.value(), (str, list)):
                    names = ", ".join(sorted(known))
                    return f"{override.input_line}: must be the name of a choice; known: {names}"
        return ""

    def _base(self, choices: Sequence[str]) -> DictConfig:
        """The config with ``choices`` if they can be composed, else without."""
        try:
            return self._compose(choices)
        except (HydraException, OmegaConfBaseException):
            return self._compose([])


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from _keys(child, f"{prefix}{key}.")


def _takes(part: str, target: object, argument: str) -> bool:
    """Whether the class or function that ``part``'s ``target`` names has such an argument."""
    try:
        return argument in inspect.signature(locate(part, target)).parameters
    except (ConfigError, KeyError, TypeError, ValueError):
        return False


def _unreadable(error: OverrideParseException) -> str:
    reason = [line for line in str(error).splitlines() if line and not line.startswith("See ")]
    return f"cannot read '{error.override}' ({reason[-1]}); write group=choice or key=value"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = getattr(error, "full_key", None)
    where = f"{key}: " if key and key not in lines[0] else ""
    return where + lines[0] if lines else type(error).__name__
