"""What the benchmarks publish: files of rows in benchmarks/results, and tables in README.md and docs/."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no such file yet."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ()) -> None:
    """Replace a CSV file; what a row does not have stays empty.

    Args:
        file: The file.
        rows: The rows.
        columns: The first columns; those of the rows follow as they come.
    """
    rows = list(rows)
    names = dict.fromkeys([*columns, *(key for row in rows for key in row)])
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(names), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def place(name: str, made: str) -> None:
    """Put a table into every document that has a place for it: ``<!-- name -->`` to ``<!-- end -->``."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        new = re.sub(pattern, lambda m: f"{m[1]}\n{made}\n\n{m[2]}", text, flags=re.S)
        if new != text:
            document.write_text(new, encoding="utf-8")
