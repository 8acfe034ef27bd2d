"""The folder of a single run, which all its ranks agree on, and the exit code for runs in folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from cnnexp.config import ConfigError
from cnnexp.config.dry_run import is_debug, is_dry_run, scratch_folder
from cnnexp.config.hydra_settings import folder_of, own_run_dir
from cnnexp.runs import RunFolder, claim_run_folder, process_rank

if TYPE_CHECKING:
    from cnnexp.training import TrainingJob


def agreed_folder(config: DictConfig, job: TrainingJob) -> RunFolder:
    """The run's folder, the same for all ranks that torchrun or srun started."""
    from cnnexp.training import connect_ranks

    if process_rank() is None:
        return run_folder(config)
    ranks = connect_ranks(job.parallel)
    own = str(run_folder(config)) if ranks.first else ""
    return RunFolder(ranks.from_first(own))


def run_folder(config: DictConfig) -> RunFolder:
    """A new folder for the run, or the one that hydra.run.dir names, if it holds no run."""
    if is_dry_run(config):
        return scratch_folder(named=own_run_dir(config))
    if own_run_dir(config):
        folder = RunFolder(folder_of(config, "run"))
        if folder.status.exists() or folder.config.exists():
            raise ConfigError(f"hydra.run.dir={folder}: there is a run in it; name another folder")
        make_folder(folder.path, "hydra.run.dir")
        return folder
    kind = "debug" if is_debug(config) else "train"
    parent = Path(str(config.output_dir)) / kind / str(config.name)
    make_folder(parent, "output_dir")
    return claim_run_folder(parent)


def make_folder(folder: Path, key: str) -> None:
    """Make ``folder``, which the config's ``key`` names.

    Raises:
        ConfigError: The operating system refuses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{key}: cannot make {folder}: {error.strerror}") from error


def check_folder(folder: Path, key: str) -> None:
    """Make sure that ``folder``, which ``key`` names, is one or can be made, and can be written into.

    Raises:
        ConfigError: It cannot.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise ConfigError(f"{key}={folder}: {there} is no folder; name another one")
    if not os.access(there, os.W_OK):
        raise ConfigError(
            f"{key}={folder}: there is no permission to write into {there}; name another folder"
        )


def exit_code(folders: Sequence[RunFolder]) -> int:
    """The exit code of a command whose runs are in ``folders``: 0 if all are done, and what one with
    ``debug=…`` was to find out is as it should be; else 1.
    """
    return 0 if all(_is_well(folder) for folder in folders) else 1


def _is_well(folder: RunFolder) -> bool:
    if folder.read_status().get("state") != "done":
        return False
    return folder.read_result().get("debug", {}).get("passed", True)
