"""Where a result comes from: command, code, versions, machine."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from cnnexp.machine import processor_name
from cnnexp.version import __version__

_PACKAGES = (
    "cnnexp",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "numpy",
    "scikit-learn",
    "dp-accounting",
)


def collect_provenance(**details: Any) -> dict[str, Any]:
    """Command, git state, versions, machine and time, followed by ``details``."""
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": git_state(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": processor_name(),
        **details,
    }


def git_state(source: Path = Path(__file__)) -> dict[str, Any] | None:
    """{commit, dirty} of the checkout that ``source`` is tracked in; None if it is in none.

    An installed package that happens to lie inside somebody's checkout is not tracked there.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(source.parent), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # cnnexp itself may run from a checkout, not installed
        return __version__ if package == "cnnexp" else None
