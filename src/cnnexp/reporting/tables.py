"""Tables: every run as CSV and Parquet, every setting as Markdown and on the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnexp.reporting.gather import Run
from cnnexp.reporting.groups import Group, percent, short
from cnnexp.runs.files import write_file, write_text

FIGURES = (
    *(
        "val/acc",
        "test/acc",
        "val/loss",
        "test/loss",
        "train/loss",
        "best_epoch",
        "epochs",
        "steps",
    ),
    *("seconds_fit", "images_per_second", "parameters"),
)


def figures_of(runs: Sequence[Run]) -> list[str]:
    """The figures of ``runs``: those that all have, and the metrics that some logged beside them."""
    scores = ("val/", "test/")
    own = {key for run in runs for key in run.result if key.startswith(scores)} - set(FIGURES)
    return [*FIGURES, *sorted(own)]


def results_table(
    runs: Sequence[Run], settings: Mapping[str, Sequence[Any]], base: Path | None = None
) -> list[dict[str, Any]]:
    """One row per run: its folder, state, data, the settings that differ, figures, code."""
    rows, figures = [], figures_of(runs)
    folds = any(run.fold is not None for run in runs)
    for i, run in enumerate(runs):
        path = run.folder.path
        if base is not None and path.is_relative_to(base):
            path = path.relative_to(base)
        rows.append(
            {
                "run": str(path),
                "state": run.state,
                "dataset": run.dataset,
                **{key: values[i] for key, values in settings.items()},
                "seed": run.seed,
                **({"fold": None if run.fold is None else run.fold[-1]} if folds else {}),
                **{name: run.result.get(name, run.status.get(name)) for name in figures},
                "health": _troubles(
                    run.result.get("health") or run.status.get("health", ()),
                    run.result.get("diagnosis", {}),
                ),
                "error": run.status.get("error", ""),
                "commit": run.commit,
                "config_hash": run.result.get("config_hash", ""),
            }
        )
    return rows


def _troubles(verdicts: Sequence[Mapping[str, Any]], diagnosis: Mapping[str, Any]) -> str:
    """The causes for which the run did not learn or, if it did, what is wrong with it and the troubles that
    had not passed at its end; each with its layer.
    """
    causes = [(f["cause"], f["layer"]) for f in diagnosis.get("findings", ())]
    last = [(v["trouble"], v["layer"]) for v in verdicts if v.get("until") is None]
    named = {cause for cause, _ in causes}
    explained = diagnosis.get("outcome", {}).get("kind", "learned") not in ("learned", "too early")
    if not (causes and explained):
        causes += [pair for pair in last if pair[0] not in named]
    return ", ".join(name + (f" ({layer})" if layer else "") for name, layer in causes)


def summary_table(groups: Sequence[Group]) -> list[dict[str, str]]:
    """One row per setting, the best by validation first: number of runs, mean and 95 % interval of each
    score.
    """
    rows, own = [], figures_of([run for group in groups for run in group.runs])[len(FIGURES) :]
    for group in sorted(groups, key=by_validation):
        done = sum(run.state == "done" for run in group.runs)
        seconds = group.mean("seconds_fit")[0]
        rows.append(
            {
                **{short(key): short(value) for key, value in group.settings.items()},
                "dataset": group.dataset,
                "runs": f"{done}" if done == len(group.runs) else f"{done} of {len(group.runs)}",
                "val/acc": percent(*group.mean("val/acc")),
                "test/acc": percent(*group.mean("test/acc")),
                **{name: _with_interval(*group.mean(name)) for name in own},
                "seconds": "" if math.isnan(seconds) else f"{seconds:.0f}",
            }
        )
    return rows


def _with_interval(mean: float, half: float, _values: int) -> str:
    """A figure of any unit with its interval; empty where no run has it."""
    if math.isnan(mean):
        return ""
    return (
        f"{mean:.4g}" if math.isnan(half) else f"{mean:.4g} [{mean - half:.4g}, {mean + half:.4g}]"
    )


def by_validation(group: Group) -> float:
    """A key to sort groups by: the best val/acc first or, of numbers, the least val/mae; those without one
    last.
    """
    value, error = group.mean("val/acc")[0], group.mean("val/mae")[0]
    if math.isnan(value):
        return math.inf if math.isnan(error) else error
    return -value


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The ``rows`` as a Markdown table."""
    if not rows:
        return "no runs\n"
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(row[name].replace("|", "\\|") for name in names) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def write_csv(rows: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """Write ``rows``, which have the same keys, as CSV; return the ``file``."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_text(file, stream.getvalue())
    return file


def write_tables(
    runs: Sequence[Run],
    settings: Mapping[str, Sequence[Any]],
    groups: Sequence[Group],
    folder: Path,
) -> list[Path]:
    """Write results.csv, results.md and, where pyarrow is installed, results.parquet; return the files."""
    rows = results_table(runs, settings, folder)
    files = [write_csv(rows, folder / "results.csv"), folder / "results.md"]
    write_text(files[1], markdown(summary_table(groups)))
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return files
    columns = {name: _column([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    files.append(folder / "results.parquet")
    write_file(files[-1], lambda stream: pq.write_table(pa.table(columns), stream))
    return files


def _column(values: list[Any]) -> list[Any]:
    """``values`` as one type: numbers stay as they are, anything else becomes text."""
    if all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in values):
        whole = all(v is None or isinstance(v, int) for v in values)
        return values if whole else [None if v is None else float(v) for v in values]
    return [None if v is None else str(v) for v in values]
