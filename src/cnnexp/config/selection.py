"""Which run is meant by ``run=<folder>|<name>|<sweep>|latest`` and ``which=best|<number>|<job id>``."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnexp.config.errors import ConfigError
from cnnexp.config.key_value import text_of
from cnnexp.config.resumption import saved_config
from cnnexp.runs import RunFolder
from cnnexp.runs.comparison_plan import Comparison
from cnnexp.runs.files import read_json
from cnnexp.runs.sweep import (
    SWEEP,
    Goal,
    SweepJob,
    goals_of,
    is_sweep,
    names_of,
    sweep_jobs,
    value_of,
)
from cnnexp.suggestions import did_you_mean


@dataclass(frozen=True)
class Selected:
    """A run, and how it was found.

    Attributes:
        folder: The run folder.
        why: In what way the command chose it; "" where it was named.
    """

    folder: RunFolder
    why: str = ""

    def __str__(self) -> str:
        return f"uses {self.folder}" + (f", {self.why}" if self.why else "")


def run_to_use(arguments: Sequence[str]) -> Selected | None:
    """The run that ``run=`` and ``which=`` name to a command that uses a trained network.

    ``run=latest`` is the newest run, or where that is a job of a sweep, the sweep. The name of runs, or
    the folder that they are in, means the newest of them. Of a sweep the best job is taken if ``which``
    does not say another one.

    Returns:
        None if there is no ``run=``.

    Raises:
        ConfigError: There is no such run or job, or no best one.
    """
    run, which = _given(arguments, "run"), _given(arguments, "which")
    if run is None:
        return None
    output_dir = Path(_given(arguments, "output_dir") or "outputs")
    place = _newest(output_dir) if run == "latest" else _named(run, output_dir)
    if is_sweep(place):
        selected = _of_sweep(place, run, which)
    elif which is not None:
        found = f" (run=latest is {place})" if run == "latest" else ""
        raise ConfigError(
            f"which={which}: chooses among the jobs of a sweep, but run={run} is one run{found}; leave "
            f"which= out, or name a sweep, run={output_dir}/sweeps/<name>"
        )
    else:
        why = _why(run, place, output_dir)
        selected = Selected(RunFolder(place), why)
    saved_config(selected.folder)
    return selected


def run_to_resume(overrides: Sequence[str]) -> RunFolder | None:
    """The folder of the run that ``run=<folder>`` or ``run=latest`` names; None if there is neither.

    Raises:
        ConfigError: There is no run in it, or it is a sweep, which its own command resumes.
    """
    run, which = _given(overrides, "run"), _given(overrides, "which")
    if which is not None:
        raise ConfigError(
            f"which={which}: goes with cnnexp.evaluate, predict, explain and export; to resume one job of "
            f"a sweep, name its folder, run=outputs/sweeps/<name>/<job>"
        )
    if run is None:
        return None
    output_dir = Path(_given(overrides, "output_dir") or "outputs")
    place = _newest(output_dir) if run == "latest" else _named(run, output_dir)
    if is_sweep(place):
        raise ConfigError(_resumed_by_its_command(run, place, output_dir))
    saved_config(RunFolder(place))
    return RunFolder(place)


def _given(arguments: Sequence[str], key: str) -> str | None:
    values = [text_of(a) for a in arguments if a.startswith(f"{key}=")]
    return values[-1] if values else None


def _newest(output_dir: Path) -> Path:
    """The folder of the run whose status was written last, or of the sweep that it belongs to."""
    folder = _last_written(output_dir, "train/*/*", "sweeps/*/*")
    if folder is None:
        raise ConfigError(f"run=latest: there is no run in {output_dir}")
    return folder.parent if is_sweep(folder.parent) else folder


def _last_written(place: Path, *folders: str) -> Path | None:
    """Of the run folders in ``place``, by patterns, the one whose status was written last."""
    found = [file for each in folders for file in place.glob(f"{each}/status.json")]
    newest = max(found, key=lambda file: file.stat().st_mtime_ns, default=None)
    return newest and newest.parent


def _named(run: str, output_dir: Path) -> Path:
    for place in (Path(run), output_dir / "sweeps" / run, output_dir / "train" / run):
        if run and is_sweep(place):
            return place
        folder = RunFolder(place)
        if run and folder.config.is_file() and folder.status.is_file():
            return place
        if run and (newest := _last_written(place, "*")):
            return newest
    raise ConfigError(
        f"run={run}: holds no run (no config.yaml and status.json); name a folder such as "
        f"outputs/train/<name>/<time>, the <name> of runs, or run=latest"
    )


def _why(run: str, place: Path, output_dir: Path) -> str:
    """In what way ``run`` means the run in ``place``; "" where it names it."""
    if run == "latest":
        return f"the newest run in {output_dir}"
    return "" if Path(run) == place else f"the newest run in {place.parent}"


def _resumed_by_its_command(run: str, sweep: Path, output_dir: Path) -> str:
    command = [str(each) for each in read_json(sweep / SWEEP).get("arguments", [])]
    whole = shlex.join(["python", "-m", "cnnexp.train", *command]) if command else "-m …"
    said = f"is the sweep {sweep}" if run != str(sweep) else "is a sweep"
    newest = _last_written(output_dir, "train/*/*")
    other = f"; the newest run of its own is run={newest}" if run == "latest" and newest else ""
    return (
        f"run={run}: {said}, which is resumed by its own command, {whole}; to resume one job, name its "
        f"folder, run={sweep}/<job>{other}"
    )


def _of_sweep(sweep: Path, run: str, which: str | None) -> Selected:
    jobs = sweep_jobs(sweep)
    if not jobs:
        raise ConfigError(f"run={run}: the sweep {sweep} has no jobs")
    if which is None or which == "best":
        return _best(sweep, run, jobs)
    job = _by_number_or_id(sweep, which, jobs)
    if job.state == "waiting":
        raise ConfigError(
            f"which={which}: job {job.id} of {sweep} has not begun; nothing is trained"
        )
    return Selected(job.folder, f"{_called(job, jobs)}, which is {job.state}")


def _by_number_or_id(sweep: Path, which: str, jobs: Sequence[SweepJob]) -> SweepJob:
    for found in (
        [job for job in jobs if job.id == which],
        [job for job in jobs if str(job.number) == which],
        [job for job in jobs if len(which) >= 4 and job.id.startswith(which)],
    ):
        if len(found) == 1:
            return found[0]
    numbers = [job.number for job in jobs]
    known = f"{numbers[0]} to {numbers[-1]}" if len(jobs) > 1 else str(numbers[0])
    hint = did_you_mean(which, ["best", *(job.id for job in jobs)])
    raise ConfigError(
        f"which={which}: the sweep {sweep} has no such job; say best, a number ({known}), or a job's id; "
        f"python -m cnnexp.sweep status {sweep} lists them.{hint}"
    )


def _called(job: SweepJob, jobs: Sequence[SweepJob]) -> str:
    kind = "trial" if job.trial else "job"
    name = names_of(jobs)[job.id]
    return f"{kind} {job.number} of its sweep" + (f" ({name})" if name != "-" else "")


def _best(sweep: Path, run: str, jobs: Sequence[SweepJob]) -> Selected:
    comparison = Comparison.read(sweep)
    done = [job for job in jobs if job.state == "done"]
    if not done:
        counts = Counter(job.state for job in jobs)
        states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        raise ConfigError(
            f"run={run}: no job of the sweep {sweep} is done ({states}), so that none is the best; wait, or "
            f"take one as it is by which=<number>"
        )
    monitor = (saved_config(done[0].folder).get("checkpoint") or {}).get("monitor", "val/acc")
    goals = goals_of(jobs, comparison, monitor)
    if len(goals) != 1:
        keys = ", ".join(goal.key for goal in goals)
        raise ConfigError(
            f"run={run}: the search {sweep} has {len(goals)} objectives ({keys}), so that no single trial "
            f"is the best; choose one by which=<number of the trial>"
        )
    if comparison is not None:
        done = _counted(sweep, run, done, comparison)
    return _first_of_best(sweep, run, jobs, done, goals[0])


def _counted(
    sweep: Path, run: str, done: Sequence[SweepJob], comparison: Comparison
) -> list[SweepJob]:
    """The final runs among a comparison's jobs, if some are done; all must be of one workload."""
    if len(comparison.targets) > 1:
        raise ConfigError(
            f"run={run}: the comparison {sweep} has {len(comparison.targets)} workloads "
            f"({', '.join(comparison.targets)}), whose runs do not compare; choose one by which=<number>"
        )
    final = {trial.job for trial in comparison.jobs if trial.final}
    return [job for job in done if job.id in final] or list(done)


def _first_of_best(
    sweep: Path, run: str, jobs: Sequence[SweepJob], done: Sequence[SweepJob], goal: Goal
) -> Selected:
    values = {job.id: value for job in done if (value := value_of(job, goal)) is not None}
    if not values:
        raise ConfigError(
            f"run={run}: no done job of the sweep {sweep} has {goal.key} (were there validation images?), so "
            f"that none is the best; choose one by which=<number>"
        )
    best = (max if goal.largest else min)(values.values())
    first, *others = [job for job in done if values.get(job.id) == best]
    kind = "largest" if goal.largest else "least"
    why = f"{_called(first, jobs)}: the {kind} {goal.key}, {best:.4g}, of {len(values)} done"
    if left := len(jobs) - len(values):
        why += f" ({left} not counted)"
    if others:
        why += f"; {len(others)} more reached it, this is the first"
    if (saved_config(first.folder).get("data") or {}).get("folds") is not None:
        why += "; its fold may be an easy one: python -m cnnexp.report compares settings over all folds"
    return Selected(first.folder, why)
