"""``python -m cnnexp.sweep status|stop|retry NAME``: show a sweep, stop it, run its failed jobs again.

NAME is a folder under outputs/sweeps, or a path. Exit codes: 0 all is well, 1 a job failed (``status``),
2 there is no such sweep.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

from rich.console import Console

from cnnexp.commandline import run_command
from cnnexp.config import ConfigError
from cnnexp.runs.sweep import names_of, sweep_jobs
from cnnexp.sweeps import JobStatus, Ledger
from cnnexp.sweeps.view import table

_OVER = {"done", "failed", "pruned", "unreadable"}  # states that a launcher leaves alone


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    run_command("cnnexp.sweep", lambda: _act(_parser().parse_args()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cnnexp.sweep", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="status|stop|retry")
    for action, help in (
        ("status", "one line a job: what it is, how far, how good"),
        (
            "stop",
            "let all running jobs write a checkpoint and stop; the sweep's command resumes them",
        ),
        ("retry", "give the sweep's command again, with sweep.retry=failed"),
    ):
        each = actions.add_parser(action, help=help, description=help)
        each.add_argument("name", metavar="NAME", help="folder under outputs/sweeps, or a path")
        each.add_argument("--output-dir", default="outputs", help="if it is not outputs")
        if action == "status":
            each.add_argument("--watch", action="store_true", help="again every 2 seconds")
    return parser


def _act(arguments: argparse.Namespace) -> int:
    action = {"status": _status, "stop": _stop, "retry": _retry}[arguments.action]
    return action(_ledger(arguments), arguments)


def _ledger(arguments: argparse.Namespace) -> Ledger:
    sweeps = Path(arguments.output_dir) / "sweeps"
    for path in (sweeps / arguments.name, Path(arguments.name)):
        if any(path.glob("*/job.json")):
            return Ledger(path)
    known = sorted({file.parents[1].name for file in sweeps.glob("*/*/job.json")})
    there = f"there are: {', '.join(known)}" if known else f"there is none in {sweeps}"
    raise ConfigError(f"{arguments.name}: no such sweep; {there}")


def _status(ledger: Ledger, arguments: argparse.Namespace) -> int:
    console = Console(soft_wrap=not sys.stdout.isatty())
    while True:
        numbers = {job.id: job.number for job in sweep_jobs(ledger.path)}
        entries = sorted(ledger.entries(), key=lambda entry: numbers.get(entry.id, -1))
        counts = Counter(entry.state for entry in entries)
        if arguments.watch and console.is_terminal:
            console.clear()
        if not console.is_terminal:
            console.width = 200
        console.print(table(entries, names_of(entries), numbers=numbers), markup=False)
        parts = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        console.print(f"{ledger}: {len(entries)} jobs, {parts}", highlight=False)
        for entry in entries:
            if entry.state in ("failed", "unreadable"):
                _print_failure(console, entry)
        if not arguments.watch or not counts["running"]:
            return 1 if counts["failed"] or counts["unreadable"] else 0
        time.sleep(2)


def _print_failure(console: Console, entry: JobStatus) -> None:
    said = f"{entry.id} {entry.state}: {entry.status.get('error')}"
    console.print(said, highlight=False, markup=False)
    for line in entry.status.get("last_lines", ()):
        console.print(f"    {line}", highlight=False, markup=False)


def _stop(ledger: Ledger, _arguments: argparse.Namespace) -> int:
    states = Counter(entry.state for entry in ledger.entries())
    if not states.keys() - _OVER:
        print(f"{ledger}: nothing runs, all {states.total()} jobs are over")
        return 0
    # a launcher may hold jobs that do not run yet, as in the queue of a cluster
    ledger.ask_to_stop()
    if states["running"]:
        print(f"{ledger}: {states['running']} running jobs write their checkpoints and stop")
    else:
        print(f"{ledger}: no job runs; a launcher that waits with this sweep starts none")
    return 0


def _retry(ledger: Ledger, _arguments: argparse.Namespace) -> int:
    command, folder = ledger.command()
    if not command:
        raise ConfigError(f"{ledger}: does not say which command began it; give it again yourself")
    os.chdir(folder)
    given = [a for a in command if not a.startswith("sweep.retry=")]
    sys.stdout.flush()
    os.execv(
        sys.executable,
        [sys.executable, "-m", "cnnexp.train", *given, "sweep.retry=failed"],
    )


if __name__ == "__main__":
    main()
