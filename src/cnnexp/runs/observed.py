"""A run folder that another process of the same run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnnexp.runs.folder import RunFolder


class ObservedRunFolder(RunFolder):
    """Reads as any run folder, and writes nothing: the first of several processes does that."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Leave it to the first process."""

    write_config = write_provenance = write_status = write_result = append_metrics = _nothing
    write_evidence = clear = remove_scratch = remove_if_empty = _nothing

    def write_non_finite(self, *_: Any, **__: Any) -> Path:
        """The path of nonfinite.json; nothing is written."""
        return self.non_finite

    def cut_logs(self, *_: Any, **__: Any) -> list[str]:
        """Cut nothing, so that no file is too short."""
        return []
