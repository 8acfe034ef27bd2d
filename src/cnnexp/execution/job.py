"""What another process needs to run a training."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """One training, given by its resolved config, in its folder.

    Attributes:
        config: Resolved, plain types.
        folder: The run folder.
        allowed: Prefixes of ``_target_`` beyond cnnexp's own list.
        command: The command line that the user gave; provenance.json keeps it.
        report: Names the function ``module:function`` whose callbacks report the training to whoever
            started it; the function gets the run folder and the ranks. None: nobody is told.
    """

    config: Mapping[str, Any]
    folder: str
    allowed: Sequence[str] = ()
    command: Sequence[str] = field(default_factory=lambda: list(sys.orig_argv))
    report: str | None = None

    def to_json(self) -> str:
        """The job as one line of JSON, for the standard input of a worker."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """The job that :meth:`to_json` wrote."""
        return cls(**json.loads(line))
