"""Where in a training a checkpoint was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cnnexp.training.resume.files import CheckpointError

_KEY = "cnnexp"  # of the part of a checkpoint that is a position


@dataclass(frozen=True)
class Position:
    """The place in a training at which last.ckpt was written, beside what Lightning keeps of it.

    Attributes:
        epoch: Epochs that are done.
        batch: Batches of the present epoch that are done.
        step: Steps of the optimiser that are done.
        finished: Whether that was the end of the training.
        batches_that_stepped: What Lightning gives loggers as the step.
        random: The states of the random number generators of each rank, see ``random_state``.
        logs: How many bytes metrics.csv and each event file held.
        seconds: How long the fit had taken, without compiling kernels.
    """

    epoch: int
    batch: int
    step: int
    finished: bool
    batches_that_stepped: int
    random: Sequence[dict[str, Any]]
    logs: Mapping[str, int]
    seconds: float

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], file: Path) -> Position:
        """The position that the content of ``file`` holds.

        Raises:
            CheckpointError: It holds none, as best.ckpt does.
        """
        kept = checkpoint.get(_KEY)
        names = [field.name for field in fields(cls)]
        if not isinstance(kept, Mapping) or any(name not in kept for name in names):
            raise CheckpointError(f"{file}: does not say where the training was")
        return cls(**{name: kept[name] for name in names})

    def write_into(self, checkpoint: dict[str, Any]) -> None:
        """Add the position to what is about to be written, in plain types."""
        checkpoint[_KEY] = {**vars(self), "random": list(self.random), "logs": dict(self.logs)}
