"""Find where a stopped run goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cnnexp.runs import RunFolder
from cnnexp.training.checkpoints import CheckpointError, read_own_checkpoint

__all__ = ["newest_checkpoint"]

log = logging.getLogger(__name__)


def newest_checkpoint(folder: RunFolder, identity: str = "") -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that a training can go on from, and its part ``"cnnexp"``.

    One that is damaged, missing or another run's is passed over, and said to be.

    Args:
        folder: The run folder.
        identity: See ``TrainingJob.identity``.

    Returns:
        None if the run came to none.

    Raises:
        CheckpointError: There are checkpoints, but no good one.
    """
    failures: list[str] = []
    files = [f for f in (folder.last_checkpoint, folder.previous_checkpoint) if f.exists()]
    if files == [folder.previous_checkpoint]:
        failures.append(f"{folder.last_checkpoint}: is missing")
    for file in files:
        try:
            where = read_own_checkpoint(file, folder.path, identity).get("cnnexp")
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
