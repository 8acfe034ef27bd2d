"""Whether a run can be resumed by a command, and what its own config may hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from cnnexp.config.errors import ConfigError
from cnnexp.runs import RunFolder, config_hash
from cnnexp.runs.files import leaves
from cnnexp.runs.keys import meaning, resumable_keys

if TYPE_CHECKING:
    from cnnexp.regularization import Regularizer


_STAND_IN = "digits"  # the data set that stands in for one that is not there
_LARGEST = 1 << 20  # bytes of a config.yaml; one of cnnexp's has a few thousand

# Callbacks that put an average, or what is left of the weights, in the place of the weights at the end.
_LAST_AT_THE_END = ("EMAWeightAveraging", "ModelPruning", "WeightAveraging")


def saved_config(folder: RunFolder) -> dict[str, Any]:
    """The config.yaml of a run, which may come from a stranger: plain values and nothing else.

    Raises:
        ConfigError: It cannot be read, or holds what cnnexp never writes there: settings of Hydra's
            own, a list of defaults, interpolations, aliases; or a file of the folder is a link.
    """
    for file in folder.files():
        if file.is_symlink():
            raise ConfigError(f"{file}: is a link, and what it leads to may be nobody's run")
    try:
        size = folder.config.stat().st_size
        if size > _LARGEST:
            raise ConfigError(f"{folder.config}: has {size} bytes, which no run's config has")
        text = folder.config.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ConfigError(f"{folder.config}: holds an alias, which no run's config does")
        config = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{folder.config}: cannot be read: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"{folder.config}: is not a run's config")
    for key in ("hydra", "defaults"):
        if key in config:
            raise ConfigError(f"{folder.config}: holds '{key}', which no run's config does")
    for key, value in leaves(config):
        if "${" in f"{key} {value}":
            raise ConfigError(
                f"{folder.config}: {key} holds an interpolation, which no run's config does"
            )
    return config


def check_overrides(overrides: Sequence[str], groups: Collection[str]) -> None:
    """Check whether ``overrides`` fit a run that is resumed, whose config has values in place of choices.

    Args:
        overrides: Of the command line, without ``run=``.
        groups: Those of the config tree.

    Raises:
        ConfigError: One chooses from a group.
    """
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in groups or value.startswith("{"):
            continue
        hint = f"; write accelerator.name={value}" if key == "accelerator" else ""
        raise ConfigError(
            f"{override}: a run that is resumed keeps its {key}{hint}. It may change "
            f"{', '.join(resumable_keys())}; for anything else start a new run"
        )


def check_resumable(
    folder: RunFolder,
    config: Mapping[str, Any],
    checksum: str,
    regularizing: Sequence[Regularizer] = (),
) -> None:
    """Check whether the run in ``folder`` can be resumed.

    Args:
        folder: The run.
        config: The config to resume it with, resolved and plain.
        checksum: Of the data that was found now.
        regularizing: The regularisers that ``config`` asks for.

    Raises:
        ConfigError: It is done, began on other data, or ``config`` changes what it may not.
    """
    old, new = dict(leaves(saved_config(folder))), dict(leaves(config))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    for key in sorted(changed):
        if not meaning(key).resume:
            raise ConfigError(
                f"{key} was {old.get(key)} and cannot become {new.get(key)} in the middle of a run; start "
                f"a new run for that. A run that is resumed may change {', '.join(resumable_keys())}"
            )
    longer = "trainer.max_epochs" in changed
    state = folder.read_status().get("state")
    if state == "done" and not longer:
        raise ConfigError(f"run={folder}: is done already; trainer.max_epochs=… makes it longer")
    if longer:
        _check_longer(old, new, regularizing)
    if folder.read_provenance() and not trained_on(folder, checksum):
        raise ConfigError(
            f"run={folder}: {_on_other_data(folder, checksum)}; set data.root to where the run's data is"
        )


def run_identity(config: Mapping[str, Any]) -> str:
    """What a run's checkpoints carry: a hash of all that does not change when the run is resumed."""
    return config_hash({key: value for key, value in leaves(config) if not meaning(key).resume})


def _check_longer(
    old: Mapping[str, Any], new: Mapping[str, Any], regularizing: Sequence[Regularizer]
) -> None:
    epochs, before = new["trainer.max_epochs"], old["trainer.max_epochs"]
    if not isinstance(epochs, int) or not isinstance(before, int) or epochs < before:
        raise ConfigError(f"trainer.max_epochs={epochs}: must be more than the run's {before}")
    schedule = new.get("scheduler._target_")
    if schedule not in (None, "cnnexp.optim.plateau"):
        raise ConfigError(
            f"trainer.max_epochs={epochs}: {schedule} is laid over the {before} epochs that the run began "
            f"with; only scheduler=none and plateau can be extended"
        )
    for key, target in new.items():
        if key.startswith("callbacks.") and str(target).rpartition(".")[2] in _LAST_AT_THE_END:
            raise ConfigError(
                f"trainer.max_epochs={epochs}: {target} ends a run with other weights than those it trained "
                f"with, so that it cannot be extended"
            )
    for each in regularizing:
        if each.fixed_length:
            raise ConfigError(
                f"trainer.max_epochs={epochs}: {each.name} {each.fixed_length} of {before} epochs, so that "
                f"it cannot be extended"
            )


def check_not_of_other_data(folder: RunFolder, name: str, checksum: str) -> None:
    """Refuse to train anew, on the data set ``name``, in a folder that holds results on other data.

    What digits gave that stood in for the data set is no result, and gives way.

    Raises:
        ConfigError: The folder's run began on other data.
    """
    data = folder.read_provenance().get("dataset")
    stood_in = data is not None and data.get("name") == _STAND_IN != name
    if data is None or stood_in or trained_on(folder, checksum):
        return
    raise ConfigError(
        f"{folder}: {_on_other_data(folder, checksum)}, and what is there would be lost; give data.root or "
        f"CNNEXP_DATA as then, choose another sweep.name, or delete the folder"
    )


def _on_other_data(folder: RunFolder, checksum: str) -> str:
    data = folder.read_provenance().get("dataset", {})
    return (
        f"began on {data.get('name')} with the checksum {data.get('checksum')}, but the data found now has "
        f"the checksum {checksum}"
    )


def trained_on(folder: RunFolder, checksum: str) -> bool:
    """Whether the run in ``folder`` began on the data with this checksum."""
    return folder.read_provenance().get("dataset", {}).get("checksum") == checksum
