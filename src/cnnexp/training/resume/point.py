"""Find where a stopped run is resumed, and take its folder back to there."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnexp.runs import RunFolder
from cnnexp.runs.epochs import epoch_after
from cnnexp.training.ranks import Ranks
from cnnexp.training.resume.files import CheckpointError, read_own_checkpoint
from cnnexp.training.resume.position import Position

log = logging.getLogger(__name__)


@dataclass
class ResumePoint:
    """A checkpoint that a training resumes from.

    Attributes:
        file: The checkpoint.
        position: Where the training was.
    """

    file: Path
    position: Position
    _content: dict[str, Any] | None = field(default=None, repr=False)

    def take_content(self) -> dict[str, Any] | None:
        """What was read from the file, once: it is as large as the network and nobody needs it twice.

        None if it is taken already, or was read by another rank.
        """
        content, self._content = self._content, None
        return content

    @staticmethod
    def agreed(point: ResumePoint | None, ranks: Ranks) -> ResumePoint | None:
        """The first rank's ``point``, for all ranks; the others read the file themselves."""
        found = ranks.from_first(None if point is None else (point.file, point.position))
        return point if point is not None or found is None else ResumePoint(*found)


def newest_checkpoint(folder: RunFolder, identity: str = "") -> ResumePoint | None:
    """The newest checkpoint that a training can resume from.

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
            content = read_own_checkpoint(file, folder.path, identity)
            point = ResumePoint(file, Position.of(content, file), content)
        except CheckpointError as error:
            failures.append(str(error))
            continue
        for failure in failures:
            log.warning("%s; going back to %s", failure, file.name)
        return point
    if failures:
        raise CheckpointError(
            f"{'; '.join(failures)}. No good checkpoint is left; delete {folder.checkpoints} to start anew"
        )
    return None


def go_back(folder: RunFolder, point: ResumePoint | None) -> None:
    """Take ``folder`` back to ``point``: cut its logs; without one, empty it."""
    if point is None:
        log.info("%s: no checkpoint yet, starting anew", folder)
        folder.clear()
        return
    position = point.position
    for name in folder.cut_logs(position.logs):
        log.warning("%s is shorter than when %s was written: its curve has a gap", name, point.file)
    log.info(
        "resuming from %s: epoch %d, step %d",
        point.file,
        epoch_after(position.epoch),
        position.step,
    )
