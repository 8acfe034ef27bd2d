"""A run folder that another process of the same run writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnexp.runs.folder import RunFolder, State

__all__ = ["ObservedRunFolder"]


class ObservedRunFolder(RunFolder):
    """Reads as any run folder, and writes nothing: the first of several processes does that."""

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Nothing."""

    def write_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Nothing."""

    def write_status(self, state: State, **details: Any) -> None:
        """Nothing."""

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Nothing."""

    def write_non_finite(self, finding: Mapping[str, Any]) -> Path:
        """Nothing; the path all the same."""
        return self.non_finite

    def append_metrics(self, metrics: Mapping[str, float], *, epoch: int | None, step: int) -> None:
        """Nothing."""

    def cut_logs(self, sizes: Mapping[str, int]) -> list[str]:
        """Nothing."""
        return []

    def clear(self) -> None:
        """Nothing."""

    def remove_scratch(self) -> None:
        """Nothing."""

    def remove_if_empty(self) -> None:
        """Nothing."""
