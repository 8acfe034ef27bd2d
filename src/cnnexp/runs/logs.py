"""The files that a run appends to, cut back to where a checkpoint was written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path


def log_sizes(metrics: Path, tensorboard: Path) -> dict[str, int]:
    """How many bytes metrics.csv and each event file hold; writers must have been flushed."""
    files = [metrics] if metrics.exists() else []
    return {_key(file): file.stat().st_size for file in [*files, *_event_files(tensorboard)]}


def cut_logs(metrics: Path, tensorboard: Path, sizes: Mapping[str, int]) -> list[str]:
    """Take back what was appended since ``sizes`` were read, so that a curve has no overlap.

    TensorBoard reads event files in the order of their names, which begin with the time. So that the
    next one comes last even if the clock was set back, those that stay get a 0 in front of it.

    Returns:
        Names of files that are missing or shorter than they were; nothing can be done about these.
    """
    files = {_key(file): file for file in [metrics, *_event_files(tensorboard)] if file.exists()}
    present = log_sizes(metrics, tensorboard)
    short = [key for key, size in sizes.items() if present.get(key, -1) < size]
    for key, file in files.items():
        if key not in sizes:
            file.unlink()
        elif sizes[key] < present[key]:
            os.truncate(file, sizes[key])
    for file in reversed(_event_files(tensorboard)):  # the latest first: no name is taken twice
        file.rename(file.with_name(file.name.replace("tfevents.", "tfevents.0", 1)))
    return short


def _event_files(tensorboard: Path) -> list[Path]:
    return sorted(tensorboard.glob("events.out.tfevents.*"))


def _key(file: Path) -> str:
    return re.sub(r"tfevents\.0+", "tfevents.", file.name)
