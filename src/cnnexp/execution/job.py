"""The record of a job that another process needs to run it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """One training, described by its resolved config and its run folder.

    Attributes:
        config: The resolved config in plain types.
        folder: The run folder.
        allowed: Prefixes of ``_target_`` beyond cnnexp's own list.
        command: The command line that the user gave; provenance.json keeps it.
        report: The function, as ``module:function``, whose callbacks report on the training to the process
            that started it; the function gets the run folder and the ranks. None for no report.
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
        """Read a job that :meth:`to_json` wrote."""
        return cls(**json.loads(line))
