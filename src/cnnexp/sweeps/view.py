"""The display of a sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cnnexp.runs.epochs import epoch_after
from cnnexp.runs.sweep import names_of
from cnnexp.sweeps.ledger import JobStatus, Ledger

log = logging.getLogger(__name__)

_STYLES = {
    "done": "green",
    "failed": "red",
    "unreadable": "red",
    "running": "bold",
    "stopped": "yellow",
}
_SHOWN_OVER = 8  # the live table shows this many of the last jobs that are over


class View:
    """Display the progress of a launcher's jobs.

    Args:
        console: The console to print to; None for the terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Live | None = None
        self._over: list[JobStatus] = []
        self._ran = 0
        self._count, self._began = 0, time.monotonic()
        self._ledger = Ledger("")
        self._names: Mapping[str, str] = {}

    def begin(
        self,
        ledger: Ledger,
        jobs: Sequence[JobStatus],
        at_once: int,
        threads: int,
        gpus: Sequence[str],
    ) -> None:
        """Print what is about to run."""
        self._ledger, self._count, self._began = ledger, len(jobs), time.monotonic()
        self._names = names_of(jobs)
        on = f"GPUs {', '.join(gpus)}" if gpus else f"{threads} thread{'s' * (threads > 1)} each"
        self.say(f"sweep {ledger}: {len(jobs)} jobs, {at_once} at a time, {on}")

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    def say(self, text: str) -> None:
        """Print a line."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            log.info(text)

    def started(self, entry: JobStatus) -> None:
        """Report that a job has started."""
        if self._live is None:
            again = (
                f" (resumes, epoch {epoch_after(entry.status['epoch'])})"
                if entry.status.get("epoch")
                else ""
            )
            log.info("%s  runs%s  %s", entry.id, again, self._names[entry.id])

    def over(self, entry: JobStatus, *, ran: bool) -> None:
        """Report that a job is over; ``ran`` says that it ran in this launcher, not before or in another."""
        self._over.append(entry)
        self._ran += ran
        state = entry.state if ran else f"is {entry.state} already"
        self.say(
            f"{entry.id}  {state}  {_figures(entry)}  {self._names[entry.id]}  "
            f"({len(self._over)}/{self._count})"
        )

    def refresh(self, running: Sequence[str]) -> None:
        """Draw the table anew, with these jobs running."""
        if self._live is not None:
            rows = [self._ledger.entry(job) for job in running]
            shown = [*self._over[-_SHOWN_OVER:], *rows]
            title = f"{self._ledger}   {len(self._over)}/{self._count} over   {self._left()}"
            self._live.update(table(shown, self._names, title), refresh=True)

    def end(self, entries: Sequence[JobStatus]) -> None:
        """Print a summary."""
        counts = Counter(entry.state for entry in entries)
        parts = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        self.say(f"sweep {self._ledger}: {parts}")
        for entry in entries:
            if entry.state == "failed":
                self.say(f"{entry.id}  failed: {entry.status.get('error')}  ({entry.folder.log})")
            elif entry.state == "unreadable":
                self.say(f"{entry.id}  unreadable: {entry.status['error']}")

    def _left(self) -> str:
        if not self._ran:
            return ""
        seconds = (time.monotonic() - self._began) / self._ran * (self._count - len(self._over))
        return f"about {_span(seconds)} left"


def table(
    entries: Sequence[JobStatus],
    names: Mapping[str, str],
    title: str = "",
    numbers: Mapping[str, int] | None = None,
) -> Table:
    """A table of jobs: what distinguishes each, its state, epoch, validation and test accuracy.

    Args:
        entries: The jobs.
        names: By id, what distinguishes each job.
        title: The text above the table.
        numbers: By id, the number by which ``which=`` selects a job; None for a table without numbers.
    """
    made = Table(
        title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False
    )
    shown = () if numbers is None else ("which",)
    for name in (*shown, "job", "overrides", "state", "epoch", "val/acc", "test/acc", "left"):
        made.add_column(name, overflow="fold")
    for entry in entries:
        status, result = entry.status, _result(entry)
        epoch = "/".join(str(status[k]) for k in ("epoch", "epochs") if k in status)
        made.add_row(
            *(() if numbers is None else (str(numbers.get(entry.id, "")),)),
            entry.id,
            Text(names[entry.id]),  # a Text, because [l2,ema] is not markup
            entry.state,
            epoch,
            _percent(result.get("val/acc", status.get("val/acc"))),
            _percent(result.get("test/acc")),
            _time_left(entry),
            style=_STYLES.get(entry.state),
        )
    return made


def _figures(entry: JobStatus) -> str:
    if entry.state == "done":
        result = _result(entry)
        return "  ".join(
            f"{name} {_percent(result[name])}"
            for name in ("val/acc", "test/acc")
            if result.get(name) is not None
        )
    return str(entry.status.get("error", ""))


def _result(entry: JobStatus) -> dict[str, Any]:
    return entry.folder.read_result() if entry.state == "done" else {}


def _percent(value: Any) -> str:
    return f"{value:.2%}" if isinstance(value, (int, float)) else ""


def _time_left(entry: JobStatus) -> str:
    """The remaining time, estimated from the epochs so far."""
    seconds, done, whole = (entry.status.get(k) for k in ("seconds", "epoch", "epochs"))
    if entry.state != "running" or not seconds or not done or not whole:
        return ""
    return _span(seconds / done * (whole - done))


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
