"""How well ``cnnexp.grade`` finds and names mistakes, and whether it accuses what is right.

    python benchmarks/grading.py              some 4 minutes; writes benchmarks/results/grading.csv
    python benchmarks/grading.py --quick      a few of each group, to see that it works

Four groups of files. *edits*: mistakes made by a script that changes a few characters of right solutions
(grading_parts/mutants.py). *courses*: five implementations in the styles of public courses (loops, im2col,
stride tricks, scipy.signal, einsum), written anew, each with three mistakes. *by hand*: twenty wrong
solutions (tests/grading/students/wrong), whose first line says what the mistake is called. *right*: right
solutions of different styles (tests/grading/students/right). A mistake counts as found if the grade is not
"right", and as named if a finding is a known mistake with the expected name. Every file runs in a process of
its own; seconds are those of a grading, by the clock, without the start of Python and torch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cnnexp.grading import grade_file
from cnnexp.speed.result import conditions

sys.path.insert(0, str(Path(__file__).resolve().parent))
from grading_parts.mutants import COURSES, MUTANTS, Mutant
from published import place, read_rows, write_rows

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = ROOT / "tests" / "grading" / "students"
RESULTS = ROOT / "benchmarks" / "results" / "grading.csv"
DOCUMENT = ROOT / "docs" / "grading.md"
GROUPS = {
    "edits": "edits of our right solutions",
    "courses": "five styles of public courses, three mistakes each",
    "by hand": "written by hand",
    "right": "right solutions",
}


class Work(NamedTuple):
    """A file to be graded: its group, op, name, text, what was changed, and the expected name."""

    group: str
    op: str
    name: str
    text: str
    change: str
    expected: str


def mutated(mutant: Mutant) -> str:
    """The text of a right solution after its edit."""
    text = (STUDENTS / "right" / f"{mutant.file}.py").read_text(encoding="utf-8")
    if mutant.old not in text:
        raise ValueError(f"{mutant.file}: has no {mutant.old!r}")
    return text.replace(mutant.old, mutant.new)


def works() -> Iterator[Work]:
    """All files of all groups."""
    for group, mutants in (("edits", MUTANTS), ("courses", COURSES)):
        for m in mutants:
            yield Work(group, m.op, m.file, mutated(m), f"{m.old} → {m.new}", m.name)
    for group in ("wrong", "right"):
        for file in sorted((STUDENTS / group).glob("*.py")):
            text = file.read_text(encoding="utf-8")
            op = file.stem.partition("__")[0]
            expected = text.splitlines()[0].removeprefix("# ") if group == "wrong" else ""
            yield Work("by hand" if group == "wrong" else group, op, file.stem, text, "", expected)


def judged(work: Work, folder: Path) -> dict[str, Any]:
    """A row of results."""
    file = folder / f"{work.name}.py"
    file.write_text(work.text, encoding="utf-8")
    grade = grade_file(work.op, file)
    named = [finding.title for finding in grade.findings if finding.named]
    others = [finding.name for finding in grade.findings if not finding.named]
    return {
        "group": work.group,
        "op": work.op,
        "file": work.name,
        "change": work.change,
        "expected": work.expected,
        "verdict": grade.verdict,
        "named": int(any(work.expected in name for name in named)) if work.expected else "",
        "names": "; ".join(named),
        "described": "; ".join(others),
        "seconds": grade.seconds,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table of docs/grading.md."""
    lines = [
        "| files | how many | judged wrong | and named | slowest, s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for group, said in GROUPS.items():
        own = [row for row in rows if row["group"] == group]
        wrong = sum(row["verdict"] != "right" for row in own)
        named = sum(int(row["named"]) for row in own if row["expected"])
        slowest = max(float(row["seconds"]) for row in own)
        cell = "" if group == "right" else str(named)
        lines.append(f"| {said} | {len(own)} | {wrong} | {cell} | {slowest:.1f} |")
    first = rows[0]
    lines += [
        "",
        f"Made by `python benchmarks/grading.py`; {first['date']}; {first['processor']}, "
        f"{first['threads']} thread; Python {first['python']}, "
        f"torch {str(first['torch']).partition('+')[0]}.",
    ]
    return "\n".join(lines)


def read() -> list[dict[str, str]]:
    """The committed results."""
    return read_rows(RESULTS)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Grade the files, print what was missed, write results and table; return the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="every 20th file; nothing is written")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    about = conditions(torch.device("cpu"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for work in list(works())[:: 20 if options.quick else 1]:
            row = judged(work, Path(folder)) | about
            rows.append(row)
            bad = row["verdict"] != "right" if work.group == "right" else not row["named"]
            if bad:
                print(f"MISSED {row}", flush=True)
    if not options.quick:
        write_rows(RESULTS, rows)
        print(table(rows))
        place("grading", table(rows))
    return rows


if __name__ == "__main__":
    main()
