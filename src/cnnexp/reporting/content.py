"""What a report is about: runs, what distinguishes them, and their comparison if they are of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexp.reporting.gather import Run, gather, settings_that_differ, warnings_about
from cnnexp.reporting.groups import Group, group_runs
from cnnexp.reporting.paired import Difference, differences
from cnnexp.reporting.scores import Compared, compared


@dataclass(frozen=True)
class Report:
    """What tables and page show.

    Attributes:
        runs: The runs, in the order of their folders.
        settings: The settings in which they differ: key → the value of each run.
        groups: The groups of these runs; in a comparison, of its final runs.
        comparison: The results of a fair comparison, if the runs are of one.
        differences: How far the settings differ, by seed or fold; none in a fair comparison.
    """

    runs: Sequence[Run]
    settings: Mapping[str, Sequence[Any]]
    groups: Sequence[Group]
    comparison: Compared | None = None
    differences: Sequence[Difference] = ()

    @property
    def running(self) -> int:
        """How many runs are under way."""
        return sum(run.state == "running" for run in self.runs)

    @property
    def intervals(self) -> str:
        """What the brackets behind the means of this report say."""
        folds = any(run.fold is not None for run in self.runs)
        means = (
            "the folds of a setting, each the mean of its seeds"
            if folds
            else "the runs of a setting"
        )
        wider = ", widened for the images that folds share (Nadeau & Bengio, 2003)" if folds else ""
        return f"Mean over {means} [95 % interval by Student's t{wider}]."

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
        groups = group_runs(runs, differing)
        return Report(runs, differing, groups, differences=differences(groups))
    comparison, runs = found
    columns = comparison.columns
    finals = [i for i, final in enumerate(columns["final"]) if final == "yes"]
    of_finals = {key: [columns[key][i] for i in finals] for key in ("workload", "candidate")}
    groups = group_runs([runs[i] for i in finals], of_finals)
    return Report(runs, {**columns, **settings_that_differ(runs)}, groups, comparison)
