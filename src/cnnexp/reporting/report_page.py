"""One report page that needs no other file, no server and no network."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from cnnexp.reporting.content import Report
from cnnexp.reporting.paired import difference_table, explained, shown_on_page
from cnnexp.reporting.scores import (
    MEASURES,
    TAU,
    Compared,
    comparison_table,
    score_table,
)
from cnnexp.reporting.tables import by_validation, figures_of, results_table, summary_table
from cnnexp.runs.files import plain, write_text

_FIRST = ("val/acc", "val/loss", "train/loss", "train/acc")


def write_page(
    report: Report, file: Path, *, board: str, aggregate: str, refresh: int | None = None
) -> None:
    """Write the page to ``file``.

    Args:
        report: What it shows.
        file: The file to write.
        board: The command that shows the runs in TensorBoard.
        aggregate: The command that shows the averaged curves there.
        refresh: Seconds after which a browser loads the page again; None for never.
    """
    from plotly.offline import get_plotlyjs

    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    content = {**_content(report, file), "tensorboard": board, "aggregate": aggregate}
    if report.comparison is not None:
        content["comparison"] = _comparison(report.comparison)
    text = json.dumps(plain(content), allow_nan=False, default=str)
    tag = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">'
    page = (
        template.replace("<!--REFRESH-->", tag)
        .replace("/*DATA*/", text.replace("</", "<\\/"))  # so that nothing in it ends the script
        .replace("/*PLOTLY*/", get_plotlyjs())
    )
    write_text(file, page)


def _content(report: Report, file: Path) -> dict[str, Any]:
    runs = report.runs
    place = {id(run): i for i, run in enumerate(runs)}
    metrics = sorted({name for run in runs for name in run.curves})
    metrics.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    states = sorted({run.state for run in runs})
    counts = ", ".join(f"{sum(run.state == state for run in runs)} {state}" for state in states)
    return {
        "about": f"{len(runs)} runs: {counts}. Made {time.strftime('%Y-%m-%d %H:%M')}.",
        "settings": list(report.settings),
        "figures": figures_of(runs),
        "metrics": metrics,
        "summary": summary_table(report.groups),
        "intervals": report.intervals,
        "differences": difference_table(shown_on_page(report.differences)),
        "tested": explained(report.differences),
        "runs": results_table(runs, report.settings, file.parent),
        "warnings": report.warnings,
        "groups": [
            {
                "name": group.name,
                "runs": len(group.runs),
                "members": [place[id(run)] for run in group.runs],
                "curves": {name: vars(group.curve(name)) for name in metrics},
            }
            for group in sorted(report.groups, key=by_validation)
        ],
    }


def _comparison(result: Compared) -> dict[str, Any]:
    plan = result.plan
    return {
        "about": (
            f"{len(plan.candidates)} candidates on {len(plan.targets)} workloads; {plan.studies} studies of "
            f"{plan.trials} trials, then {plan.seeds} final runs with what each study chose, on new seeds."
        ),
        "table": comparison_table(result),
        "scores": score_table(result),
        "spaces": {
            name: ", ".join(f"{k}={v}" for k, v in s.items()) for name, s in plan.spaces.items()
        },
        "measures": list(MEASURES),
        "tau": TAU,
        "ratios": result.ratios,
        "targets": {name: f"{plan.metric} {target:g}" for name, target in plan.targets.items()},
        "cells": [
            {
                "candidate": cell.candidate,
                "workload": cell.workload,
                **{m: list(cell.to_target[m]) for m in MEASURES},
            }
            for cell in result.cells
            if not math.isnan(cell.to_target["steps"][0])
        ],
    }
