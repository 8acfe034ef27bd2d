"""Hydra's own settings, ``hydra.…``: which of them a command obeys, and which it refuses."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from importlib import resources

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import Container, DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from cnnexp.config.arguments import key_of
from cnnexp.config.errors import ConfigError
from cnnexp.config.interpolation import raw
from cnnexp.runs.files import leaves
from cnnexp.suggestions import did_you_mean

_PARAMS = "hydra.sweeper.params."


def for_all() -> list[str]:
    """What holds for any root config, the config.yaml of a run folder among them."""
    return [
        "hydra.output_subdir=null",  # the run folder has its own config.yaml
        "hydra/job_logging=cnnexp",
        "hydra/hydra_logging=cnnexp",
    ]


def for_sweep(whole: DictConfig) -> list[str]:
    """What a sweep is begun with where neither the config nor the command line says otherwise.

    Args:
        whole: The config of the sweep as a whole.

    Raises:
        ConfigError: It names the folders of jobs in another way than by their ids.
    """
    hydra, made = whole.hydra, []
    if hydra.runtime.choices.get("hydra/launcher") in ("local", "basic"):
        made.append("hydra/launcher=local")  # before a basic of the command line, which counts
    if _raw(hydra.sweep, "dir") == _default("sweep", "dir"):
        made.append("hydra.sweep.dir=${output_dir}/sweeps/${sweep.name}")
    subdir = _raw(hydra.sweep, "subdir")
    if subdir != _default("sweep", "subdir"):
        raise ConfigError(
            f"hydra.sweep.subdir={subdir}: a job's folder is named by the hash of its config, so that the "
            f"same command finds it again; choose the sweep's folder by sweep.name=… or hydra.sweep.dir=…"
        )
    return [*made, "hydra.sweep.subdir=${job_id:}"]


def own_run_dir(config: DictConfig) -> bool:
    """Whether ``config`` or the command line names the run folder, in place of Hydra's default."""
    return _raw(config.hydra.run, "dir") != _default("run", "dir")


def folder_of(config: DictConfig, part: str) -> str:
    """``hydra.run.dir`` or ``hydra.sweep.dir``, resolved; ``part`` is run or sweep.

    Raises:
        ConfigError: It cannot be resolved, or is empty.
    """
    try:
        folder = str(config.hydra[part].dir)
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"hydra.{part}.dir={_raw(config.hydra[part], 'dir')}: {reason}"
        ) from error
    if not folder.strip():
        raise ConfigError(
            f"hydra.{part}.dir={folder}: names no folder; write hydra.{part}.dir=<path>"
        )
    return folder


def sweep_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of a sweep, without ``hydra.mode``, which is settled.

    Raises:
        ConfigError: A single run is resumed, not a sweep.
    """
    for override in overrides:
        if key_of(override) in ("run", "which"):
            raise ConfigError(
                f"{override}: a sweep is resumed by its own command; run=… resumes a single run, without -m"
            )
    return [override for override in overrides if key_of(override) != "hydra.mode"]


def is_param(override: str) -> bool:
    """Whether it is a setting ``hydra.sweeper.params.…``."""
    return f"{key_of(override)}.".startswith(_PARAMS)


def check_shown(config: DictConfig, flags: argparse.Namespace) -> None:
    """Check whether ``--cfg`` and ``--help`` can show what ``--package`` and ``--resolve`` ask for.

    Raises:
        ConfigError: There is no such package, or an interpolation leads nowhere.
    """
    shown = config.copy()
    OmegaConf.set_readonly(shown.hydra, None)
    if flags.cfg in (None, "job"):
        with flag_override(shown, ["struct", "readonly"], [False, False]):
            del shown["hydra"]
    package = flags.package if flags.package not in (None, "_global_") else None
    if package and OmegaConf.select(shown, package) is None:
        hint = did_you_mean(package, map(str, shown))
        raise ConfigError(f"--package={package}: --cfg {flags.cfg} has no such part.{hint}")
    if flags.resolve:
        part = OmegaConf.select(shown, package) if package else shown
        try:
            if isinstance(part, Container):
                OmegaConf.resolve(part)
        except OmegaConfBaseException as error:
            key = f"{error.full_key}: " if error.full_key else ""
            raise ConfigError(key + str(error).partition("\n")[0]) from error


def with_params(overrides: Sequence[Override]) -> list[str]:
    """``overrides`` with ``hydra.sweeper.params.<key>=<values>`` as the sweep over <key> that it means.

    What the command line sweeps itself comes after it, and counts.
    """
    params, others = [], []
    for override in overrides:
        line = override.input_line or ""
        if f"{override.key_or_group}." == _PARAMS and isinstance(values := override.value(), dict):
            params += [f"{key}={value}" for key, value in leaves(values) if key]
        elif override.key_or_group.startswith(_PARAMS) and not override.is_delete():
            text = override.value() if _is_quoted(override) else line.partition("=")[2]
            params.append(f"{override.key_or_group.removeprefix(_PARAMS)}={text}")
        else:
            others.append(line)
    return [*params, *others]


def _is_quoted(override: Override) -> bool:
    """Whether its value is a text that stands in quotes."""
    if not isinstance(override.value(), str):
        return False
    return override.get_value_element_as_str()[:1] in ("'", '"')


def check_swept(override: Override) -> None:
    """Check whether the values of ``override``, if it has several, can be those of jobs.

    Raises:
        ConfigError: It is a setting of Hydra's own, which only the sweep as a whole has.
    """
    key = override.key_or_group
    if override.is_sweep_override() and key.startswith(("hydra.", "hydra/")):
        raise ConfigError(
            f"{override.input_line}: settings of Hydra's own hold for the whole sweep and cannot be swept; "
            f"for a list, write {key}=[a,b]"
        )


def check_listed(override: Override) -> None:
    """Check whether Hydra's own sweeper can run the values of ``override``.

    Raises:
        ConfigError: It cannot list them, or there is none.
    """
    if not override.is_sweep_override():
        return
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line}: Hydra's own sweeper tries listed values only; "
            f"write {override.key_or_group}=value,value"
        )
    if not any(True for _ in override.sweep_string_iterator()):
        raise ConfigError(
            f"{override.input_line}: leaves no value to run; a sweep needs one at least, as in "
            f"{override.key_or_group}=a,b"
        )


@cache
def _default(part: str, key: str) -> str:
    """The value of ``key`` in ``hydra.run`` or ``hydra.sweep`` as Hydra ships it, not resolved."""
    file = resources.files("hydra.conf") / "hydra" / "output" / "default.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))[part][key]


def _raw(node: DictConfig, key: str) -> str:
    return str(raw(node)[key])
