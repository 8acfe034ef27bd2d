"""Compose a config with Hydra, and say in one sentence what is wrong if it cannot be composed."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from cnnexp.config.arguments import key_of
from cnnexp.config.errors import ConfigError
from cnnexp.config.folds import with_folds
from cnnexp.config.hydra_internals import Hydra, hydra_of, is_basic_sweeper, split_into_jobs
from cnnexp.config.hydra_settings import check_listed, check_swept, with_params
from cnnexp.config.init_from import in_full, pinned
from cnnexp.config.interpolation import raw
from cnnexp.config.targets import locate, under_a_name
from cnnexp.runs.files import leaves
from cnnexp.suggestions import did_you_mean


def conf_dir() -> Path:
    """The folder of the config tree: ``conf/`` of the checkout, or ``cnnexp/conf`` in a wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / "conf"
    inside = package / "conf"
    return inside if inside.is_dir() or not checkout.is_dir() else checkout


def plain_config(config: DictConfig) -> dict[str, Any]:
    """The resolved ``config`` in plain types, without Hydra's own node, its ``init_from`` pinned.

    Raises:
        ConfigError: A value is missing or an interpolation cannot be resolved; there are no such weights
            to start from.
    """
    try:
        whole = raw(config)
        bare = OmegaConf.create({key: part for key, part in whole.items() if key != "hydra"})
        plain = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is missing: add {error.full_key}=…") from error
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    assert isinstance(plain, dict)
    hydra = whole.get("hydra")
    sweep = isinstance(hydra, dict) and hydra.get("mode") == RunMode.MULTIRUN
    settled = with_folds(
        {str(key): value for key, value in plain.items()},
        dict(leaves(whole)).get("data.split_seed"),
        _overrides_of(hydra),
    )
    return pinned(settled, sweep=sweep)


def _overrides_of(hydra: object) -> Sequence[str]:
    """The overrides of the command line, by Hydra's node or, in a job without one, by what Hydra keeps."""
    if not isinstance(hydra, dict):
        return HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    return (hydra.get("overrides") or {}).get("task") or ()


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
        config_dir: Folder for what is not in the tree (``--config-dir``).

    Attributes:
        folders: Those that hold configs, in the order in which they are searched.
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
        self.folders = [self._path] if self._dir is None else [self._dir, self._path]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one job, Hydra's node included; interpolations are not yet resolved.

        Raises:
            ConfigError: Unknown key, unknown choice, bad syntax or an interpolation that fails.
        """
        with self._explained(overrides):
            config = self._compose(overrides)
        HydraConfig.instance().set_config(config)  # what ${hydra:…} reads
        return config

    def whole(self, overrides: Sequence[str]) -> DictConfig:
        """The config of a sweep as a whole, in which what is swept keeps its default.

        The launcher is ``local`` where neither the config nor ``overrides`` choose another one: its
        settings are known then.

        Raises:
            ConfigError: As :meth:`compose`.
        """
        with self._explained(overrides):
            with self._hydra() as hydra:
                loader = hydra.config_loader
                defaults = loader.compute_defaults_list(
                    self._name, list(overrides), RunMode.MULTIRUN
                )
            chosen = defaults.overrides.known_choices.get("hydra/launcher")
            ours = ["hydra/launcher=local"] if chosen == "basic" else []
            config = self._compose([*ours, *overrides], RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
        return config

    def sweeps(self, overrides: Sequence[str]) -> bool:
        """Whether the config, or the command line, says ``hydra.mode=MULTIRUN``."""
        try:
            return self.whole(overrides).hydra.mode == RunMode.MULTIRUN
        except ConfigError:  # which is said where the config is needed
            return False

    @contextmanager
    def _explained(self, overrides: Sequence[str]) -> Iterator[None]:
        """Within it what Hydra raises becomes a :class:`ConfigError`."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="provider=.* is not available")
                yield
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
        except KeyError as error:
            raise ConfigError(f"hydra.job.env_copy: {error} is not in the environment") from error
        except UserWarning as warning:
            raise ConfigError(f"hydra.searchpath: there is no such folder ({warning})") from warning

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

    def groups(self) -> dict[str, list[str]]:
        """The choices of each group, Hydra's own left out."""
        with self._hydra() as hydra:
            loader = hydra.config_loader
            names = [name for name in loader.list_groups("") if name != "hydra"]
            return {name: sorted(loader.get_group_options(name)) for name in names}

    def with_params(self, overrides: Sequence[str]) -> list[str]:
        """``overrides`` of a sweep, ``hydra.sweeper.params.<key>=…`` as the sweep over <key> that it means.

        Raises:
            ConfigError: An override cannot be read.
        """
        with self._hydra() as hydra:  # which globs and group names are read with
            return with_params(self._parsed(hydra, overrides))

    def jobs(self, overrides: Sequence[str]) -> Jobs:
        """What a sweep over ``overrides`` runs.

        Raises:
            ConfigError: An override cannot be read, swept, or leaves nothing to run.
        """
        with self._hydra() as hydra:
            parsed = self._parsed(hydra, overrides)
            for override in parsed:
                check_swept(override)
            fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
            sweeper = self.compose(fixed).hydra.sweeper
            if not is_basic_sweeper(sweeper["_target_"]):
                swept = [o.input_line or "" for o in parsed if o.is_sweep_override()]
                return Jobs([fixed], complete=False, swept=swept)
            params = leaves(sweeper.get("params") or {})
            swept = self._parsed(hydra, [f"{key}={value}" for key, value in params if key])
        of_hydra = [o for o in parsed if o.get_key_element().lstrip("+~").startswith("hydra.")]
        swept += [o for o in parsed if o not in of_hydra]
        for override in swept:
            check_listed(override)
        same = [o.input_line or "" for o in of_hydra]
        return Jobs([[*job, *same] for job in split_into_jobs(swept)], complete=True)

    @staticmethod
    def _parsed(hydra: Hydra, overrides: Sequence[str]) -> list[Override]:
        try:
            parser = OverridesParser.create(config_loader=hydra.config_loader)
            return parser.parse_overrides(list(overrides))
        except OverrideParseException as error:
            raise ConfigError(_unreadable(error)) from error

    def _compose(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """The config as ``hydra.compose`` gives it, which cannot look where --config-dir says."""
        with self._hydra() as hydra:
            return hydra.compose_config(
                self._name,
                in_full(overrides),
                mode,
                with_log_configuration=False,
                validate_sweep_overrides=mode == RunMode.RUN,
            )

    def _hydra(self) -> AbstractContextManager[Hydra]:
        return hydra_of(self._name, self._path, self._dir)

    def _explain(self, error: Exception, overrides: Sequence[str]) -> str:
        """The message for an override that does not fit the config."""
        text = str(error)
        if match := re.search(r"(?:value for argument|Sweep parameters) '(.+)'", text):
            # optimizer=adam,sgd without -m
            return f"{match[1]}: to run each value, add -m (for a list, write [a,b])"
        match = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text)
        if not match:
            return _of_override(error, overrides)
        key = match[1]
        parent, _, name = key.rpartition(".")
        same = [o for o in overrides if o.lstrip("+~").partition("=")[0] == key]
        below = [o for o in overrides if o.lstrip("+~").startswith(key)]
        given = [*same, *below, key][0]
        choices = [
            o for o in overrides if not o.startswith(("+", "~")) and "." not in o.split("=")[0]
        ]
        base = self._base([o for o in choices if o != given])
        if "@" in key:
            group, _, package = key.partition("@")
            value = given.partition("=")[2]
            return f"{given}: no {group} is chosen for a part '{package}'; write {group}={value}"
        node = OmegaConf.select(base, parent) if parent else None
        target = node.get("_target_") if isinstance(node, DictConfig) else None
        if target is not None and _takes(parent, target, name):
            return f"{given}: not set in the config yet; {target} takes it: add +{given}"
        if parent == "data" and name in ("folds", "fold"):
            return f"{given}: not set in the data set's config: add +{given}"
        of_hydra = key.startswith("hydra")
        known = [k for k in _keys(raw(base)) if k.startswith("hydra.") == of_hydra]
        if key == "hydra":
            return f"{given}: Hydra's own settings have keys, as in hydra.run.dir=…"
        if key in known:
            return _of_override(error, overrides)
        hint = did_you_mean(key, known)
        if named := under_a_name(parent, name) if name.startswith("_") else "":
            return f"{given}: {named}" + (f".{hint}" if hint else "")
        return f"{given}: there is no key '{key}' in the config.{hint}"

    def _unnamed_choice(self, overrides: Sequence[str]) -> str:
        with self._hydra() as hydra:
            for override in OverridesParser.create().parse_overrides(list(overrides)):
                if not override.key_or_group:
                    return f"cannot read '{override.input_line}'; write group=choice or key=value"
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


def _keys(node: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, child in node.items():
        yield f"{prefix}{key}"
        if isinstance(child, dict):
            yield from _keys(child, f"{prefix}{key}.")


def _takes(part: str, target: object, argument: str) -> bool:
    """Whether the class or function that ``part``'s ``target`` names has such an argument."""
    try:
        return argument in inspect.signature(locate(part, target)).parameters
    except (ConfigError, KeyError, TypeError, ValueError):
        return False


def _unreadable(error: OverrideParseException) -> str:
    reason = [line for line in str(error).splitlines() if line and not line.startswith("See ")]
    nested = error.override or ""
    if nested.count("${") > 1:
        key, _, value = nested.partition("=")
        return f"cannot read '{nested}': put the value into quotes, '{key}=\"{value}\"'"
    return f"cannot read '{error.override}' ({reason[-1]}); write group=choice or key=value"


def _of_override(error: Exception, overrides: Sequence[str]) -> str:
    """The message of ``error``, with the override that it is about in front."""
    text, reason = str(error), error.__cause__
    if match := re.match(r"Error merging override (.+)", text):
        why = _first_line(reason) if isinstance(reason, OmegaConfBaseException) else text
        return f"{match[1]}: {why}"
    for pattern, there in (
        (r"An item is already at '([^']+)'", ""),
        (r"^Multiple values for (\S+)\.", "a choice of "),
    ):
        if match := re.search(pattern, text):
            added = [o for o in overrides if o.startswith("+") and key_of(o) == match[1]]
            if added or not there:
                given = [*added, match[1]][0]
                return (
                    f"{given}: the config has {there}{match[1]} already; write {given.lstrip('+')}"
                )
    return _first_line(error)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = getattr(error, "full_key", None)
    where = f"{key}: " if key and key not in lines[0] else ""
    return where + lines[0] if lines else type(error).__name__
