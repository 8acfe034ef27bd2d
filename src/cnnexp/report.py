"""``python -m cnnexp.report PATH…``: runs and sweeps as tables, curves and one page.

It writes results.csv, results.md, results.parquet, report.html and averaged curves for TensorBoard into
--output (default: the first PATH), and prints a table; for a comparison (``sweep=compare_…``) it writes
comparison.csv and comparison.md as well. Settings that have seeds or folds in common are compared in pairs
(differences.csv). Exit codes: 0 written, 1 a file could not be written, 2 there are no runs, or no folder
to write into.
"""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cnnexp.commandline import run_command
from cnnexp.config import ConfigError
from cnnexp.execution.folders import check_folder, make_folder
from cnnexp.reporting import (
    comparison_table,
    difference_table,
    explained,
    of_the_best,
    score_table,
    summary_table,
    write_comparison,
    write_differences,
    write_tables,
)
from cnnexp.reporting.content import Report, report_on

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
    check_folder(output, "--output")
    if not arguments.no_page:
        _check_plotly()
    while True:
        running = _report(arguments, output)
        if not arguments.watch or not running:
            return 0
        time.sleep(_REFRESH)


def _report(arguments: argparse.Namespace, output: Path) -> int:
    """Write all files; return how many runs are under way."""
    report = report_on(arguments.paths)
    if report is None:
        raise ConfigError(
            f"{', '.join(map(str, arguments.paths))}: holds no run (no status.json); name a folder such as "
            f"outputs/sweeps/<name>"
        )
    make_folder(output, "--output")
    written = write_tables(report.runs, report.settings, report.groups, output)
    if report.comparison:
        written += write_comparison(report.comparison, output)
    if report.differences:
        written += write_differences(report.differences, output)
    if not arguments.no_page:
        written.append(_page(arguments, output, report))
    _show(report)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"written: {', '.join(map(str, written))}")
    return report.running


def _show(report: Report) -> None:
    """Print the tables on the terminal."""
    comparison = report.comparison
    console = Console()
    if not console.is_terminal:
        console.width = 200
    tables = [(summary_table(report.groups), report.intervals)]
    if comparison:
        tables = [(comparison_table(comparison, whole=False), ""), (score_table(comparison), "")]
    elif report.differences:
        best = of_the_best(report.differences)
        tables.append((difference_table(best), explained(report.differences)))
    for rows, said in tables:
        if not rows:
            continue
        shown = Table(*rows[0], box=None, pad_edge=False)
        for row in rows:
            shown.add_row(*row.values())
        console.print(shown, markup=False)
        console.print(said, style="dim", markup=False, highlight=False)
    for text in report.warnings:
        console.print(text, style="yellow", markup=False, highlight=False)
    if comparison and comparison.left_out:
        console.print(
            f"left out: {comparison.left_out} runs in the folder that are none of this comparison's"
        )


def _check_plotly() -> None:
    try:
        import plotly  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            'report.html needs plotly: pip install "cnnexp[report]"; or add --no-page'
        ) from error


def _page(arguments: argparse.Namespace, output: Path, report: Report) -> Path:
    from cnnexp.reporting.board import write_aggregate
    from cnnexp.reporting.report_page import write_page

    aggregate = output / "tensorboard-means"
    write_aggregate(report.groups, aggregate)
    file = output / "report.html"
    where = shlex.quote(str(arguments.paths[0]))
    write_page(
        report,
        file,
        board=f"tensorboard --logdir {where}",
        aggregate=f"tensorboard --logdir {shlex.quote(str(aggregate))}",
        refresh=_REFRESH if arguments.watch and report.running else None,
    )
    return file


if __name__ == "__main__":
    main()
