"""The jobs of a sweep as its folder has them: numbered, and the best one by what the sweep is judged by."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from cnnexp.runs.comparison_plan import Comparison
from cnnexp.runs.files import RunFolderError, read_json
from cnnexp.runs.folder import RunFolder
from cnnexp.runs.goodness import less_is_better

SWEEP = "sweep.json"  # the arguments of the command that was given last, and where


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep.

    Attributes:
        id: The hash of its config, which is the name of its folder.
        number: Of a search the number of its trial; else its place among the jobs, from 0.
        overrides: Of the command that made it.
        folder: Its run folder.
        state: Of status.json; ``waiting`` without one.
        trial: The content of trial.json; {} of a job that no search proposed.
    """

    id: str
    number: int
    overrides: Sequence[str]
    folder: RunFolder
    state: str
    trial: Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """What jobs are judged by.

    Attributes:
        key: Of result.json.
        largest: Whether the largest value is the best; else the smallest.
    """

    key: str
    largest: bool

    @classmethod
    def of(cls, key: str) -> Goal:
        """The goal where nothing but the key is known: a loss is to be small."""
        return cls(key, not less_is_better(key))


class _Overridden(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def overrides(self) -> Sequence[str]: ...


def is_sweep(folder: Path) -> bool:
    """Whether ``folder`` is that of a sweep."""
    return (folder / SWEEP).is_file() or any(folder.glob("*/job.json"))


def by_overrides(job: _Overridden) -> tuple[list[list[tuple[int, int, str]]], str]:
    """What jobs are sorted by: their overrides, the numbers in them as numbers (seed=2 before seed=10)."""
    parts = [re.split(r"(\d+)", override) for override in job.overrides]
    keys = [[(0, int(p), "") if p.isdigit() else (1, 0, p) for p in each] for each in parts]
    return keys, job.id


def names_of(jobs: Iterable[_Overridden]) -> dict[str, str]:
    """Id → the overrides that not all of ``jobs`` have: what one looks for in a list of them."""
    jobs = list(jobs)
    common = set(jobs[0].overrides) if len(jobs) > 1 else set()
    for job in jobs:
        common &= set(job.overrides)
    return {j.id: " ".join(o for o in j.overrides if o not in common) or "-" for j in jobs}


def sweep_jobs(folder: Path) -> list[SweepJob]:
    """The jobs of the sweep in ``folder``, by number; what is damaged has the state ``unreadable``."""
    found = [_read(file.parent) for file in folder.glob("*/config.yaml")]
    found.sort(key=by_overrides)
    if found and all(type(job.trial.get("number")) is int for job in found):
        numbered = [replace(job, number=job.trial["number"]) for job in found]
        return sorted(numbered, key=lambda job: job.number)
    return [replace(job, number=place) for place, job in enumerate(found)]


def _read(path: Path) -> SweepJob:
    folder = RunFolder(path)
    try:
        overrides = read_json(folder.job).get("overrides", [])
        state = str(folder.read_status().get("state", "waiting"))
        trial = read_json(folder.trial)
    except RunFolderError:
        return SweepJob(path.name, -1, [], folder, "unreadable", {})
    return SweepJob(path.name, -1, [str(o) for o in overrides], folder, state, trial)


def goals_of(jobs: Sequence[SweepJob], comparison: Comparison | None, monitor: str) -> list[Goal]:
    """What a sweep is judged by: one goal, or of a search as many as it has objectives.

    A search has its own objectives, a comparison its metric; any other sweep what its jobs choose
    their best epoch by, val/acc if they differ in that. Nothing of the test images is among them.

    Args:
        jobs: Of the sweep.
        comparison: The content of its comparison.json, if it is one.
        monitor: checkpoint.monitor in the config that the jobs share.
    """
    if comparison is not None:
        return [Goal.of(comparison.metric)]
    trials = [job.trial for job in jobs if job.trial]
    if trials:
        last = max(trials, key=lambda trial: trial.get("number", 0))
        keys = last.get("objectives") or [last.get("objective", "val/acc")]
        directions = last.get("directions") or [None] * len(keys)
        return [
            Goal.of(str(key)) if direction is None else Goal(str(key), direction == "maximize")
            for key, direction in zip(keys, directions, strict=False)
            if not str(key).startswith("test/")
        ]
    set_to = (o.lstrip("+").partition("=") for job in jobs for o in job.overrides)
    given = {monitor, *(value for key, _, value in set_to if key == "checkpoint.monitor")}
    return [Goal.of(monitor if given == {monitor} else "val/acc")]


def value_of(job: SweepJob, goal: Goal) -> float | None:
    """The value of ``goal`` that ``job`` reached; None if it is not done or has none that is finite."""
    if job.state != "done":
        return None
    try:
        value = job.folder.read_result().get(goal.key)
    except RunFolderError:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
