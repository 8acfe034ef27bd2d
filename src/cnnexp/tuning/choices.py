"""The file that keeps the choices of ``algorithm="auto"`` for later processes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnexp.environment import variable
from cnnexp.machine import processor_name
from cnnexp.runs.files import write_text

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """The folder ``$CNNEXP_CACHE`` or, if unset, ``cnnexp`` in the user's cache folder."""
    if place := variable("CNNEXP_CACHE"):
        return Path(place)
    base = variable("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cnnexp"


class ChoiceFile:
    """``algorithms.json``: for each situation the algorithm, and the milliseconds that led to the choice.

    For each network that was measured as a whole it has the algorithm of each layer.

    In a folder that cannot be written the choices are lost with the process, and nothing else; a file
    that cannot be read is treated as missing and replaced.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Any] | None = None

    @property
    def path(self) -> Path:
        """The path of the file."""
        return cache_dir() / "algorithms.json"

    def get(self, situation: str) -> tuple[str, dict[str, float]] | None:
        """The algorithm chosen on this processor and the seconds of each that was measured; None if
        unknown.
        """
        entry = self._entry(situation)
        name = entry.get("algorithm")
        if not isinstance(name, str):
            return None
        times = entry.get("milliseconds")
        times = times if isinstance(times, dict) else {}
        known = {n: each / 1e3 for n, each in times.items() if isinstance(each, int | float)}
        return name, known

    def put(self, situation: str, algorithm: str, seconds: dict[str, float]) -> None:
        """Add a choice, unless another process has added one since this situation was asked for.

        The first choice stays, so that trainings side by side take the same algorithms: ask again for it.
        """
        times = {name: round(1e3 * each, 4) for name, each in seconds.items()}
        self._add(situation, {"algorithm": algorithm, "milliseconds": times})

    def get_step(self, situation: str) -> tuple[dict[str, str], float] | None:
        """The algorithm of each layer of a network, and the time of its step by that of torch's own; None
        if unknown.
        """
        entry = self._entry(situation)
        layers, ratio = entry.get("layers"), entry.get("ratio")
        if not isinstance(layers, dict) or not isinstance(ratio, int | float):
            return None
        return {str(name): str(each) for name, each in layers.items()}, float(ratio)

    def put_step(self, situation: str, layers: Mapping[str, str], ratio: float) -> None:
        """Add the choice for a network, as :meth:`put` does."""
        self._add(situation, {"layers": dict(layers), "ratio": round(ratio, 4)})

    def get_ratio(self, situation: str) -> float | None:
        """The time of one thing by that of another, as :meth:`put_ratio` kept it; None if unknown."""
        ratio = self._entry(situation).get("ratio")
        return float(ratio) if isinstance(ratio, int | float) else None

    def put_ratio(self, situation: str, ratio: float) -> None:
        """Add the time of one thing by that of another, as :meth:`put` does."""
        self._add(situation, {"ratio": round(ratio, 4)})

    def settle_ratio(self, situation: str, ratio: float, *, undisturbed: bool) -> float:
        """Add ``ratio``, unless other programs disturbed its measurement, and return it; or the ratio that
        another process has added since this situation was asked for.
        """
        if undisturbed:
            self.put_ratio(situation, ratio)
        else:
            self.forget()
        kept = self.get_ratio(situation)
        return round(ratio, 4) if kept is None else kept

    def _entry(self, situation: str) -> dict[str, Any]:
        if self._entries is None:
            self._entries = self._read()
        entry = self._entries.get(f"{situation} | {processor_name()}")
        return entry if isinstance(entry, dict) else {}

    def _add(self, situation: str, entry: dict[str, Any]) -> None:
        looked, self._entries = self._entry(situation), self._read()
        if self._entry(situation) != looked:
            return
        self._entries[f"{situation} | {processor_name()}"] = entry
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self._entries, indent=1))
        except OSError as error:
            log.debug("the choice is not kept: %s", error)

    def forget(self) -> None:
        """Forget what was read, so that the next look reads the file again."""
        self._entries = None

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
