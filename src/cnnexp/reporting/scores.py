"""The scores of a fair comparison: steps and seconds to the target, medians of studies, profiles.

Source: Dahl et al., "Benchmarking Neural Network Training Algorithms" (AlgoPerf, 2023), sections 4.2 and 4.5;
performance profiles: Dolan & Moré (2002).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexp.reporting.gather import Run
from cnnexp.reporting.groups import interval, percent, short
from cnnexp.reporting.tables import markdown, write_csv
from cnnexp.runs.comparison_plan import Comparison, Outcome, Trial, outcome_of
from cnnexp.runs.files import write_text

MEASURES = ("steps", "seconds")
TAU = 4.0  # a profile ends at this multiple of the fastest, as in AlgoPerf
_RESAMPLES = 2000

Place = tuple[str, str]  # a candidate and a workload
Estimate = tuple[float, float, float]  # a value and the ends of its 95 % interval


@dataclass(frozen=True)
class Cell:
    """The results of one candidate on one workload.

    Attributes:
        candidate: The candidate's name.
        workload: The workload's name.
        runs: The final runs that are over.
        reached: How many of them reached the target.
        to_target: For ``steps`` and ``seconds``, the median over studies of the median over seeds; infinite
            if that did not reach the target; NaN while no study is complete.
        settings: The settings that each study chose.
        failed: How many trials and final runs failed, for example by diverging.
    """

    candidate: str
    workload: str
    runs: Sequence[Run]
    reached: int
    to_target: Mapping[str, Estimate]
    settings: Sequence[Mapping[str, Any]]
    failed: int


@dataclass(frozen=True)
class Compared:
    """A comparison and its results.

    Attributes:
        plan: The comparison as it was planned.
        cells: The results of each candidate on each workload.
        ratios: For ``steps`` and ``seconds``, each candidate's multiples of the fastest, by workload.
        scores: For ``steps`` and ``seconds``, the area under each candidate's performance profile from 1 to
            ``TAU``, in [0, 1].
        columns: The place of each given run in the comparison: key → one value per run.
        left_out: How many runs in the folder do not belong to this comparison.
    """

    plan: Comparison
    cells: Sequence[Cell]
    ratios: Mapping[str, Mapping[str, Sequence[float]]]
    scores: Mapping[str, Mapping[str, Estimate]]
    columns: Mapping[str, Sequence[Any]]
    left_out: int


def compared(folder: Path, runs: Sequence[Run]) -> tuple[Compared, list[Run]] | None:
    """The results of the comparison in ``folder``, and those of its ``runs`` that belong to it.

    The result is None if ``folder`` holds no comparison.
    """
    plan = Comparison.read(folder)
    if plan is None:
        return None
    about = {trial.job: trial for trial in plan.jobs}
    own = [run for run in runs if run.folder.path.name in about]
    trials = [about[run.folder.path.name] for run in own]
    finals = _final_runs(own, trials)
    outcomes = {
        place: {
            study: [outcome_of(r.folder, plan.metric, plan.targets[place[1]]) for _, r in each]
            for study, each in studies.items()
        }
        for place, studies in finals.items()
    }
    resampled = {m: _resampled(plan, outcomes, m) for m in MEASURES}
    failed = Counter(
        (t.candidate, t.workload) for r, t in zip(own, trials, strict=True) if r.state == "failed"
    )
    cells = [
        Cell(
            *place,
            [run for each in finals.get(place, {}).values() for _, run in each],
            sum(math.isfinite(o.steps) for each in outcomes.get(place, {}).values() for o in each),
            {m: _estimate(resampled[m], place) for m in MEASURES},
            [each[0][0].settings for each in finals.get(place, {}).values()],
            failed[place],
        )
        for place in ((c, w) for w in plan.targets for c in plan.candidates)
    ]
    profiles = {m: _profiles(plan, resampled[m]) for m in MEASURES}
    result = Compared(
        plan,
        cells,
        {m: ratios for m, (ratios, _) in profiles.items()},
        {m: scores for m, (_, scores) in profiles.items()},
        _columns(trials),
        len(runs) - len(own),
    )
    return result, own


def _columns(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    names = ("workload", "candidate", "study", "trial")
    columns: dict[str, list[Any]] = {n: [getattr(trial, n) for trial in trials] for n in names}
    return columns | {"final": ["yes" if trial.final else "no" for trial in trials]}


def _final_runs(
    runs: Sequence[Run], trials: Sequence[Trial]
) -> dict[Place, dict[int, list[tuple[Trial, Run]]]]:
    """The final runs that are over, by (candidate, workload) and study."""
    finals: dict[Place, dict[int, list[tuple[Trial, Run]]]] = {}
    for run, trial in zip(runs, trials, strict=True):
        if trial.final and run.state in ("done", "failed"):
            of_place = finals.setdefault((trial.candidate, trial.workload), {})
            of_place.setdefault(trial.study, []).append((trial, run))
    return {place: dict(sorted(studies.items())) for place, studies in finals.items()}


def _resampled(
    plan: Comparison, outcomes: Mapping[Place, Mapping[int, Sequence[Outcome]]], measure: str
) -> dict[Place, Any]:
    """The median of studies for each candidate and workload: the value itself, then one per bootstrap sample.

    Studies are drawn with replacement, and seeds within each; on one workload the same ones for all
    candidates, whose runs share their seeds. A study that is not complete for all of them is left out.
    """
    import numpy as np

    made: dict[Place, Any] = {}
    for number, workload in enumerate(plan.targets):
        places = [(candidate, workload) for candidate in plan.candidates]
        studies = [
            study
            for study in range(plan.studies)
            if all(len(outcomes.get(p, {}).get(study, ())) == plan.seeds for p in places)
        ]
        if not studies:
            continue
        shape = (_RESAMPLES, len(studies))
        random = np.random.default_rng(number)
        which = random.integers(len(studies), size=(*shape, 1))
        seeds = random.integers(plan.seeds, size=(*shape, plan.seeds))
        for place in places:
            values = np.array(
                [[getattr(o, measure) for o in outcomes[place][study]] for study in studies]
            )
            samples = np.median(np.median(values[which, seeds], axis=2), axis=1)
            made[place] = np.concatenate(([np.median(np.median(values, axis=1))], samples))
    return made


def _estimate(resampled: Mapping[Place, Any], place: Place) -> Estimate:
    if place not in resampled:
        return math.nan, math.nan, math.nan
    value, samples = resampled[place][0], resampled[place][1:]
    return (float(value), *_ends(samples))


def _ends(samples: Any) -> tuple[float, float]:
    """The ends of the percentile interval, without interpolation, as values may be infinite."""
    import numpy as np

    low, high = np.quantile(samples, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _profiles(
    plan: Comparison, resampled: Mapping[Place, Any]
) -> tuple[dict[str, list[float]], dict[str, Estimate]]:
    """Each candidate's multiples of the fastest by workload, and the area under its performance profile."""
    import numpy as np

    workloads = [w for w in plan.targets if (plan.candidates[0], w) in resampled]
    fastest = {w: np.min([resampled[c, w] for c in plan.candidates], axis=0) for w in workloads}
    ratios, scores = {}, {}
    for candidate in plan.candidates if workloads else ():
        own, areas = [], []
        for workload in workloads:
            value = resampled[candidate, workload]
            with np.errstate(invalid="ignore"):
                ratio = np.where(np.isfinite(value), value / fastest[workload], math.inf)
            own.append(float(ratio[0]))
            areas.append(np.clip((TAU - ratio) / (TAU - 1), 0, 1))
        area = np.mean(areas, axis=0)
        ratios[candidate] = own
        scores[candidate] = (float(area[0]), *_ends(area[1:]))
    return ratios, scores


def comparison_table(result: Compared, *, whole: bool = True) -> list[dict[str, str]]:
    """One row per workload and candidate, the fastest of each workload first.

    With ``whole`` it has columns for the chosen settings and the number of failed runs, which make it too
    wide for a terminal.
    """
    rows = []
    order = {workload: i for i, workload in enumerate(result.plan.targets)}

    def fastest(cell: Cell) -> tuple[int, float]:
        steps = cell.to_target["steps"][0]
        return order[cell.workload], math.inf if math.isnan(steps) else steps

    for cell in sorted(result.cells, key=fastest):
        n = len(cell.runs)
        figures = {
            part: percent(*interval([r.result[f"{part}/acc"] for r in cell.runs if _has(r, part)]))
            for part in ("val", "test")
        }
        rows.append(
            {
                "workload": cell.workload,
                "target": f"{result.plan.metric} {result.plan.targets[cell.workload]:g}",
                "candidate": cell.candidate,
                "steps to target": _shown(cell.to_target["steps"]),
                "seconds to target": _shown(cell.to_target["seconds"]),
                "reached": f"{cell.reached} of {n}",
                "val/acc": figures["val"],
                "test/acc": figures["test"],
                **(
                    {
                        "chosen": "; ".join(map(_settings, cell.settings)),
                        "failed": str(cell.failed or ""),
                    }
                    if whole
                    else {}
                ),
            }
        )
    return rows


def score_table(result: Compared) -> list[dict[str, str]]:
    """One row per candidate, the greatest score by steps first."""
    scores = result.scores
    order = sorted(scores["steps"], key=lambda name: -scores["steps"][name][0])
    return [
        {
            "candidate": name,
            **{
                f"score by {m}": "{:.2f} [{:.2f}, {:.2f}]".format(*scores[m][name])
                for m in MEASURES
            },
        }
        for name in order
    ]


def _has(run: Run, part: str) -> bool:
    return isinstance(run.result.get(f"{part}/acc"), (int, float))


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{short(key)} {short(value)}" for key, value in settings.items()) or "—"


def _shown(estimate: Estimate) -> str:
    if math.isnan(estimate[0]):
        return ""
    value, low, high = ("never" if math.isinf(v) else f"{v:.4g}" for v in estimate)
    return f"{value} [{low}, {high}]"


def write_comparison(result: Compared, folder: Path) -> list[Path]:
    """Write comparison.csv and comparison.md into ``folder``; return the two files."""
    rows = comparison_table(result)
    files = [write_csv(rows, folder / "comparison.csv"), folder / "comparison.md"]
    short_rows = comparison_table(result, whole=False)
    write_text(files[1], f"{markdown(score_table(result))}\n{markdown(short_rows)}")
    return files
