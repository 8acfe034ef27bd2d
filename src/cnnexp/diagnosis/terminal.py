"""A diagnosis as text for a terminal."""

from __future__ import annotations

import io
import shlex
import textwrap
from typing import TYPE_CHECKING

from cnnexp.diagnosis.of_run import RunDiagnosis
from cnnexp.diagnosis.tryout import Tryout

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 96
GLOSSARY = "docs/diagnostics.md#why-a-training-does-not-learn"


def as_text(found: RunDiagnosis, tryout: Tryout | None = None, *, colour: bool = False) -> str:
    """The diagnosis as text; with ``colour`` for a terminal that has some."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, force_terminal=colour, highlight=False)
    _show(found, tryout, console)
    return stream.getvalue().rstrip("\n")


def _show(found: RunDiagnosis, tryout: Tryout | None, console: Console) -> None:
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        indent = " " * (len(text) - len(text.lstrip()))
        rows = textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
        console.print(Text("\n".join(rows or [text]), style), soft_wrap=True)

    diagnosis = found.diagnosis
    line(f"{found.folder}  {found.state}", "dim")
    line(diagnosis.headline, style_of(found))
    for number, finding in enumerate(diagnosis.findings, 1):
        line("")
        line(f"{number}. {finding.cause}: {finding.evidence}", "bold")
        line(f"   {finding.known.meaning}")
        for consequence in finding.consequences:
            line(f"   hence {consequence}", "dim")
        line(f"   try: {finding.suggestion}", "cyan")
        if finding.overrides:
            console.print(Text(f"        {shlex.join(finding.overrides)}", "cyan"), soft_wrap=True)
        if finding.known.section:
            line(f"   docs/derivation.md#{finding.known.section}", "dim")
    if diagnosis.healthy:
        line("nothing conspicuous", "green")
    line("")
    if tryout is not None:
        line(str(tryout), "green" if tryout.learned else "yellow")
    if found.note:
        line(f"note: {found.note}", "yellow")
    line(f"what the words mean: {GLOSSARY}", "dim")


def style_of(found: RunDiagnosis) -> str:
    """The style of the headline: red if it did not learn, yellow if something is wrong, else green."""
    if found.diagnosis.outcome.bad:
        return "bold red"
    return "bold green" if found.diagnosis.healthy else "bold yellow"
