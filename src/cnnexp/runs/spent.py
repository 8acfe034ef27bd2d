"""The steps that a private run has spent: a file that only grows, so that no step goes uncounted.

    {"noise_multiplier": 1.1, "sampling_rate": 0.0023}
    .
    .

A line of JSON says how the steps that follow are made; each line with a dot is one of them. A line is there
before its step is made: what a killed run did after its last checkpoint is counted, though nobody has it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from cnnexp.runs.files import RunFolderError

__all__ = ["SpentSteps"]


class SpentSteps:
    """Read and extend the file.

    Args:
        file: It need not exist yet.
        writes: Whether this process writes it; of several that train together, one does, and all count.

    Raises:
        RunFolderError: The file is damaged.
    """

    def __init__(self, file: Path, *, writes: bool = True) -> None:
        self._file, self._writes = file, writes
        self._segments: list[tuple[dict[str, float], int]] = []
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        whole, _, begun = text.rpartition("\n")
        if begun and writes:  # a kill came while it was written, and no step after it
            os.truncate(file, len(text.encode()) - len(begun.encode()))
        for line in whole.splitlines():
            if line == "." and self._segments:
                settings, steps = self._segments[-1]
                self._segments[-1] = (settings, steps + 1)
            else:
                self._segments.append((_settings(file, line), 0))

    @property
    def segments(self) -> list[tuple[dict[str, float], int]]:
        """How steps were made, and how many so, in their order."""
        return [(dict(settings), steps) for settings, steps in self._segments]

    @property
    def steps(self) -> int:
        """How many steps there were."""
        return sum(steps for _, steps in self._segments)

    def begin(self, settings: Mapping[str, float]) -> None:
        """Let the steps that follow be made by ``settings``."""
        if not self._segments or self._segments[-1][0] != dict(settings):
            self._append(json.dumps(dict(settings)))
            self._segments.append((dict(settings), 0))

    def spend(self) -> None:
        """Count one more step; :meth:`begin` came before."""
        self._append(".")
        settings, steps = self._segments[-1]
        self._segments[-1] = (settings, steps + 1)

    def sync(self) -> None:
        """Have the file on the disk: before anything is, that the steps have led to."""
        if self._file.exists():
            with self._file.open("rb") as stream:
                os.fsync(stream.fileno())

    def _append(self, line: str) -> None:
        if not self._writes:
            return
        with self._file.open("ab") as stream:
            stream.write(f"{line}\n".encode())


def _settings(file: Path, line: str) -> dict[str, float]:
    try:
        settings = json.loads(line)
        return {key: float(value) for key, value in settings.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise RunFolderError(
            f"{file}: is damaged at {line[:40]!r}, so that nobody knows how much privacy the run has "
            f"spent; it cannot be resumed"
        ) from error
