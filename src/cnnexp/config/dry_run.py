"""Runs that are tried out: ``trainer.fast_dev_run`` leaves nothing, ``debug=…`` nothing that reports find."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

from cnnexp.config.errors import ConfigError
from cnnexp.runs import RunFolder, process_rank


def is_dry_run(config: Mapping[str, Any]) -> bool:
    """Whether ``config`` (plain types) asks for a few batches only, to see that they go through."""
    return bool(config["trainer"].get("fast_dev_run"))


def is_debug(config: Mapping[str, Any]) -> bool:
    """Whether ``config`` is that of a run beside all real ones."""
    return (config.get("debug") or {}).get("name", "none") != "none"


def refuse_dry_run(config: Mapping[str, Any]) -> None:
    """Make sure that a job of a sweep is no dry run, and a real one.

    Raises:
        ConfigError: It is one.
    """
    if is_debug(config):
        raise ConfigError(
            f"debug={config['debug']['name']}: looks into one run, beside all real ones; leave out -m, or "
            f"debug="
        )
    if is_dry_run(config):
        raise ConfigError(
            "trainer.fast_dev_run: tries one run out and keeps nothing, which a sweep cannot resume; "
            "leave out -m, or check all jobs with validate_only=true"
        )


def scratch_folder(*, named: bool) -> RunFolder:
    """A new folder beside all others, among the system's temporary files.

    Args:
        named: Whether the command names a folder.

    Raises:
        ConfigError: It does.
    """
    if named:
        raise ConfigError(
            "trainer.fast_dev_run: keeps nothing, so that there is nothing for hydra.run.dir; leave one of "
            "them out"
        )
    return RunFolder(tempfile.mkdtemp(prefix="cnnexp-fast-dev-run-"))


def end_dry_run(folder: RunFolder) -> int:
    """Remove ``folder`` if all went through; what went wrong stays, with its train.log.

    Returns:
        The exit code of the command.
    """
    here = process_rank()
    if here is not None and here.rank > 0:  # the first removes it, maybe before this one looks
        return 0 if folder.read_status().get("state", "done") == "done" else 1
    if folder.read_status().get("state") != "done":
        return 1
    shutil.rmtree(folder.path)
    print("fast_dev_run: everything goes through; nothing is kept", flush=True)
    return 0
