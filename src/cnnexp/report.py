"""``python -m cnnexp.report PATH…``: runs and sweeps as tables, curves and one page.

It writes results.csv, results.md, results.parquet, report.html and averaged curves for TensorBoard into
--output (default: the first PATH), and prints a table; for a comparison (``sweep=compare_…``) it writes
comparison.csv and comparison.md as well. Exit codes: 0 written, 2 there are no runs.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cnnexp.commandline import run_command
from cnnexp.config import ConfigError
from cnnexp.reporting import (
    Compared,
    Group,
    Run,
    compared,
    comparison_table,
    gather,
    group_runs,
    score_table,
    settings_that_differ,
    summary_table,
    warnings_about,
    write_comparison,
    write_tables,
)

__all__ = ["main"]

_REFRESH = 10  # seconds


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    run_command("cnnexp.report", lambda: _main(_parser().parse_args()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnnexp.report", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="run folders, sweeps")
    parser.add_argument(
        "--output", type=Path, help="folder to write to; the first PATH if not said"
    )
    parser.add_argument("--no-page", action="store_true", help="tables only")
    parser.add_argument("--watch", action="store_true", help=f"again every {_REFRESH} seconds")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    for path in arguments.paths:
        if not path.is_dir():
            raise ConfigError(f"{path}: there is no such folder")
    output = arguments.output or arguments.paths[0]
    while True:
        running = _report(arguments, output)
        if not arguments.watch or not running:
            return 0
        time.sleep(_REFRESH)


def _report(arguments: argparse.Namespace, output: Path) -> int:
    """Write all files; return how many runs are under way."""
    runs = gather(arguments.paths)
    if not runs:
        raise ConfigError(
            f"{', '.join(map(str, arguments.paths))}: holds no run (no status.json); name a folder such as "
            f"outputs/sweeps/<name>"
        )
    output.mkdir(parents=True, exist_ok=True)
    comparison = None
    if len(arguments.paths) == 1 and (found := compared(arguments.paths[0], runs)):
        comparison, runs = found
    settings, groups = _groups(runs, comparison)
    written = write_tables(runs, settings, groups, output)
    if comparison:
        written += write_comparison(comparison, output)
    if not arguments.no_page:
        written.append(_page(arguments, output, runs, settings, groups, comparison))
    _show(runs, groups, comparison)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"written: {', '.join(map(str, written))}")
    return _running(runs)


def _running(runs: Sequence[Run]) -> int:
    return sum(run.state == "running" for run in runs)


def _groups(
    runs: Sequence[Run], comparison: Compared | None
) -> tuple[dict[str, Sequence[Any]], list[Group]]:
    """The settings in which the runs differ, and their groups; in a comparison, groups of its final runs."""
    settings: dict[str, Sequence[Any]] = dict(settings_that_differ(runs))
    if comparison is None:
        return settings, group_runs(runs, settings)
    finals = [i for i, final in enumerate(comparison.columns["final"]) if final == "yes"]
    of_finals = {
        key: [comparison.columns[key][i] for i in finals] for key in ("workload", "candidate")
    }
    return {**comparison.columns, **settings}, group_runs([runs[i] for i in finals], of_finals)


def _show(runs: Sequence[Run], groups: Sequence[Group], comparison: Compared | None) -> None:
    """Print the tables on the terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = 200
    tables = [summary_table(groups)]
    if comparison:
        tables = [comparison_table(comparison, whole=False), score_table(comparison)]
    for rows in filter(None, tables):
        shown = Table(*rows[0], box=None, pad_edge=False)
        for row in rows:
            shown.add_row(*row.values())
        console.print(shown, markup=False)
        if comparison:
            console.print()
    for text in warnings_about(runs, mixed_data=comparison is not None):
        console.print(text, style="yellow", markup=False, highlight=False)
    if comparison and comparison.left_out:
        console.print(
            f"left out: {comparison.left_out} runs in the folder that are none of this comparison's"
        )


def _page(
    arguments: argparse.Namespace,
    output: Path,
    runs: Sequence[Run],
    settings: Mapping[str, Sequence[Any]],
    groups: Sequence[Group],
    comparison: Compared | None,
) -> Path:
    try:
        import plotly  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            'report.html needs plotly: pip install "cnnexp[report]"; or add --no-page'
        ) from error
    from cnnexp.reporting.board import write_aggregate
    from cnnexp.reporting.report_page import write_page

    aggregate = output / "tensorboard-means"
    write_aggregate(groups, aggregate)
    file = output / "report.html"
    where = shlex.quote(str(arguments.paths[0]))
    write_page(
        runs,
        settings,
        groups,
        file,
        board=f"tensorboard --logdir {where}",
        aggregate=f"tensorboard --logdir {shlex.quote(str(aggregate))}",
        refresh=_REFRESH if arguments.watch and _running(runs) else None,
        comparison=comparison,
    )
    return file


if __name__ == "__main__":
    main()
