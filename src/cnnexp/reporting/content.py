"""What a report is about: runs, what distinguishes them, and their comparison if they are of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexp.reporting.gather import Run, gather, settings_that_differ, warnings_about
from cnnexp.reporting.groups import Group, group_runs
from cnnexp.reporting.scores import Compared, compared


@dataclass(frozen=True)
class Report:
    """What tables and page show.

    Attributes:
        runs: The runs, in the order of their folders.
        settings: The settings in which they differ: key → the value of each run.
        groups: The groups of these runs; in a comparison, of its final runs.
        comparison: The results of a fair comparison, if the runs are of one.
    """

    runs: Sequence[Run]
    settings: Mapping[str, Sequence[Any]]
    groups: Sequence[Group]
    comparison: Compared | None = None

    @property
    def running(self) -> int:
        """How many runs are under way."""
        return sum(run.state == "running" for run in self.runs)

    @property
    def warnings(self) -> list[str]:
        """What must be said of the runs; a comparison may be of several data sets."""
        return warnings_about(self.runs, mixed_data=self.comparison is not None)


def report_on(paths: Sequence[Path]) -> Report | None:
    """The report on the runs in and below ``paths``; None if there are none."""
    runs = gather(paths)
    if not runs:
        return None
    found = compared(paths[0], runs) if len(paths) == 1 else None
    if found is None:
        differing = settings_that_differ(runs)
        return Report(runs, differing, group_runs(runs, differing))
    comparison, runs = found
    columns = comparison.columns
    finals = [i for i, final in enumerate(columns["final"]) if final == "yes"]
    of_finals = {key: [columns[key][i] for i in finals] for key in ("workload", "candidate")}
    groups = group_runs([runs[i] for i in finals], of_finals)
    return Report(runs, {**columns, **settings_that_differ(runs)}, groups, comparison)
