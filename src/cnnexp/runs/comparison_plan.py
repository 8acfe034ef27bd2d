"""comparison.json: which jobs of a sweep stand for which candidate of a fair comparison, and how each did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnnexp.runs.files import read_json, write_json
from cnnexp.runs.folder import RunFolder

COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Trial:
    """One job of a comparison.

    Attributes:
        job: Its id, the name of its run folder.
        candidate: What is compared.
        workload: What it is to learn.
        study: From 0; each draws settings of its own.
        trial: From 0, within the study; of a final run that which was chosen.
        final: Whether it is run with chosen settings and a new seed, to be counted; else it is one of those
            by which the settings are chosen.
        seed: Of the run.
        settings: What was drawn.
    """

    job: str
    candidate: str
    workload: str
    study: int
    trial: int
    final: bool
    seed: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A comparison as it was planned, and its jobs as far as they are known.

    Attributes:
        metric: By which a target is reached: ``val/acc`` or ``val/loss``.
        targets: Of each workload.
        candidates: Their names, in order.
        spaces: What was searched, by candidate: key → override.
        studies: How often the settings are chosen anew.
        trials: Settings that are tried for each choice.
        seeds: Final runs with each choice.
        jobs: All jobs.
    """

    metric: str
    targets: Mapping[str, float]
    candidates: Sequence[str]
    spaces: Mapping[str, Mapping[str, str]]
    studies: int
    trials: int
    seeds: int
    jobs: Sequence[Trial] = ()

    def write(self, folder: Path) -> None:
        """Write comparison.json into the sweep's ``folder``."""
        write_json(folder / COMPARISON, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Comparison | None:
        """The comparison of the sweep in ``folder``; None if it is no comparison.

        Raises:
            RunFolderError: The file is damaged.
        """
        content = read_json(folder / COMPARISON)
        if not content:
            return None
        return cls(**{**content, "jobs": [Trial(**job) for job in content["jobs"]]})

    def choose(self, folder: Path, candidate: str, workload: str, study: int) -> Trial:
        """The trial of a study that reached the target in the fewest steps; else the best one.

        Among those that reached it at once, or never, that with the best metric; then the first.
        """
        own = [
            job
            for job in self.jobs
            if not job.final and (job.candidate, job.workload) == (candidate, workload)
        ]

        def rank(job: Trial) -> tuple[float, float]:
            found = outcome_of(RunFolder(folder / job.job), self.metric, self.targets[workload])
            if math.isnan(found.best):  # failed before its first validation
                return math.inf, math.inf
            return found.steps, -found.best if self.metric == "val/acc" else found.best

        return min((job for job in own if job.study == study), key=rank)


@dataclass(frozen=True)
class Outcome:
    """How a run did.

    Attributes:
        steps: Of the optimiser, until a validation reached the target; infinite if none did.
        seconds: Of training, likewise, validations not counted.
        best: The metric of the best validation; NaN if there was none.
    """

    steps: float
    seconds: float
    best: float


def outcome_of(folder: RunFolder, metric: str, target: float) -> Outcome:
    """How the run in ``folder`` did by ``metric`` (``val/acc``, ``val/loss``), the ``target`` being given.

    A run that failed has reached what it reached before.
    """
    more = metric != "val/loss"
    seconds: dict[int, float] = {}
    values: dict[int, float] = {}
    for row in folder.read_metrics():
        if row["name"] == "perf/train_seconds":
            seconds[row["step"]] = row["value"]
        elif row["name"] == metric and math.isfinite(row["value"]):
            values[row["step"]] = row["value"]
    best = (max if more else min)(values.values(), default=math.nan)
    reached = [step for step, v in values.items() if (v >= target if more else v <= target)]
    if not reached:
        return Outcome(math.inf, math.inf, best)
    step = min(reached)  # of the last batch, counted from 0
    return Outcome(step + 1, seconds.get(step, math.nan), best)
