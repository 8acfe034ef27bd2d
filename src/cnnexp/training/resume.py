"""Find where a stopped run goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cnnexp.runs import RunFolder
from cnnexp.training.checkpoints import CheckpointError, read_checkpoint

__all__ = ["newest_checkpoint"]

log = logging.getLogger(__name__)


def newest_checkpoint(folder: RunFolder) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that a training can go on from, and its part ``"cnnexp"``.

    A damaged one is passed over, and said to be.

    Returns:
        None if the run came to none.

    Raises:
        CheckpointError: There are checkpoints, but no good one.
    """
    failures: list[str] = []
    for file in (folder.last_checkpoint, folder.previous_checkpoint):
        if not file.exists():
            continue
        try:
            where = read_checkpoint(file).get("cnnexp")
            if not isinstance(where, dict):
                raise CheckpointError(f"{file}: does not say where the training was")
        except CheckpointError as error:
            failures.append(str(error))
            continue
        for failure in failures:
            log.warning("%s; going back to %s", failure, file.name)
        return file, where
    if failures:
        raise CheckpointError(
            f"{'; '.join(failures)}. No good checkpoint is left; delete {folder.checkpoints} to start anew"
        )
    return None
