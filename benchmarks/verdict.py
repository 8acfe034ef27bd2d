"""How often the verdict on a training is right: failing trainings of known causes, and healthy ones.

    python benchmarks/verdict.py                  what is not judged yet: all, some ten minutes on a free core
    python benchmarks/verdict.py --half 0         the half that thresholds were set by; 1: the one held out;
                                                  habits: other people's
    python benchmarks/verdict.py --kind vanishing
    python benchmarks/verdict.py --table          train nothing: only the table, from the committed file

Each training has 2,000 images of MNIST, a small network and seconds of time (benchmarks/verdict_parts). A
failing one is found if the verdict is not "healthy", and named if the first finding is its cause. A healthy
one must have no finding, and no line of ``health``. Writes benchmarks/results/verdict.csv and the tables
between ``<!-- verdict -->`` or ``<!-- habits -->`` and ``<!-- end -->`` of docs/diagnostics.md.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import lightning
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from published import place, read_rows, write_rows
from verdict_parts.altering import Case
from verdict_parts.failing import FAILING
from verdict_parts.habits import RIGHT, SPOILT
from verdict_parts.healthy import HEALTHY

from cnnexp.diagnosis import diagnose_run
from cnnexp.runs import RunFolder
from cnnexp.training import NonFiniteError, run_training

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "results" / "verdict.csv"
_HABITS = "habits"  # in the place of a half


def cases() -> list[tuple[Case, str]]:
    """All trainings, each with its half: 0 that thresholds were set by, 1 that was held out; or ``habits``
    for other people's, which were written when both were done.
    """
    found, seen = [], dict[str, int]()
    for case in (*FAILING, *HEALTHY):
        seen[case.kind] = seen.get(case.kind, 0) + 1
        found.append((case, str((seen[case.kind] - 1) % 2)))
    return found + [(case, _HABITS) for case in (*SPOILT, *RIGHT)]


def judge(number: int) -> dict[str, str]:
    """Run the training of this number among all, and return the row of its verdict."""
    case, half = cases()[number]
    torch.set_num_threads(1)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder, first = RunFolder(Path(place)), _First()
        logging.getLogger("cnnexp").addHandler(first)
        try:
            run_training(case.job(), folder)
        except NonFiniteError:
            pass
        finally:
            logging.getLogger("cnnexp").removeHandler(first)
        found = diagnose_run(folder)
        metrics = folder.read_result()
        origin = folder.read_provenance()
    findings = [finding.cause for finding in found.diagnosis.findings]
    known = [[cause] for cause in case.causes]
    healthy = found.diagnosis.healthy and not metrics.get("health", [])
    accuracy = metrics.get("val/acc")
    return {
        "kind": case.kind,
        "case": case.name,
        "half": half,
        "outcome": found.diagnosis.outcome.kind,
        "first": findings[0] if findings else "",
        "others": "; ".join(findings[1:]),
        "health": "; ".join(v["trouble"] for v in metrics.get("health", [])),
        "found": str(int(not found.diagnosis.healthy)),
        "named": str(int(findings[:1] in known)),
        "right": str(int(healthy if case.kind == "healthy" else findings[:1] in known)),
        "said": first.when,
        "steps": str(found.evidence.steps),
        "val/acc": "" if accuracy is None else f"{accuracy:.4f}",
        "evidence": found.diagnosis.findings[0].evidence if findings else "",
        "seconds": f"{time.perf_counter() - begin:.1f}",
        "processor": str(origin.get("processor", "")),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


class _First(logging.Handler):
    """Notes when the verdict was said first: before the first step, during the training, or at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.when = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if self.when or not text.startswith("verdict:"):
            return
        self.when = "end"
        for words, when in (("before the first step", "before"), ("so far", "during")):
            if words in text:
                self.when = when


def table(rows: Sequence[dict[str, str]]) -> str:
    """The Markdown table: found and named by kind, and false alarms."""
    lines = [
        "| kind | trainings | found | named first | precision | of the half held out: named |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    failing = [row for row in rows if row["kind"] != "healthy"]
    kinds = [*dict.fromkeys(row["kind"] for row in failing)]
    for kind in kinds:
        own = [row for row in failing if row["kind"] == kind]
        lines.append(f"| {kind} | {_counts(own)} | {_precision(rows, own)} | {_held_out(own)} |")
    lines.append(
        f"| **all {len(kinds)} kinds** | {_counts(failing)} | {_all_precision(rows)} | {_held_out(failing)} |"
    )
    healthy = [row for row in rows if row["kind"] == "healthy"]
    silent = sum(row["right"] == "1" for row in healthy)
    held = [row for row in healthy if row["half"] == "1"]
    quiet = sum(row["right"] == "1" for row in held)
    lines += [
        "",
        f"Of {len(healthy)} healthy trainings {silent} got no finding and no line of `health` ({quiet} of "
        f"{len(held)} of the half held out).",
    ]
    return "\n".join(lines)


def habits(rows: Sequence[dict[str, str]]) -> str:
    """The Markdown table of other people's habits: what was said first of each, and when."""
    lines = ["| habit | named first | said | validation accuracy |", "| --- | --- | --- | --- |"]
    said = {
        "before": "before the first step",
        "during": "in the first epoch",
        "end": "at the end",
        "": "–",
    }
    spoilt = [row for row in rows if row["kind"] != "healthy"]
    for row in spoilt:
        first = f"**{row['first'] or 'nothing'}** (wrong)" if row["named"] != "1" else row["first"]
        lines.append(
            f"| {row['case']} | {first} | {said[row['said']]} | {float(row['val/acc']):.1%} |"
        )
    right = [row for row in rows if row["kind"] == "healthy"]
    silent = sum(row["right"] == "1" for row in right)
    named = sum(row["named"] == "1" for row in spoilt)
    lines += [
        "",
        f"{named} of {len(spoilt)} are named; of {len(right)} right twins {silent} got no finding and no "
        f"line of `health`.",
    ]
    return "\n".join(lines)


def _counts(rows: Sequence[dict[str, str]]) -> str:
    found, named = (sum(row[key] == "1" for row in rows) for key in ("found", "named"))
    return f"{len(rows)} | {found} | {named} ({named / len(rows):.0%})"


def _precision(rows: Sequence[dict[str, str]], own: Sequence[dict[str, str]]) -> str:
    """Of the trainings whose first finding is one that names this kind, the share that is of it."""
    names = {row["first"] for row in own if row["named"] == "1"}
    said = [row for row in rows if row["first"] in names]
    right = [row for row in said if row["named"] == "1"]
    return f"{len(right) / len(said):.0%}" if said else "–"


def _all_precision(rows: Sequence[dict[str, str]]) -> str:
    said = [row for row in rows if row["first"]]
    return f"{sum(row['named'] == '1' for row in said) / len(said):.0%}" if said else "–"


def _held_out(rows: Sequence[dict[str, str]]) -> str:
    held = [row for row in rows if row["half"] == "1"]
    return f"{sum(row['named'] == '1' for row in held)} of {len(held)}"


def read() -> list[dict[str, str]]:
    """The rows of the committed file; none without it."""
    return read_rows(FILE)


def write(rows: Sequence[dict[str, str]]) -> None:
    """Replace the committed file."""
    write_rows(FILE, rows)


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description="how often the verdict on a training is right")
    parser.add_argument("--half", choices=("0", "1", _HABITS), help="these trainings")
    parser.add_argument("--kind", help="one kind of them")
    parser.add_argument("--again", action="store_true", help="those judged already as well")
    parser.add_argument("--jobs", type=int, default=1, help="how many trainings at a time (1)")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    rows = {(row["kind"], row["case"]): row for row in read()}
    order = {(case.kind, case.name): i for i, (case, _) in enumerate(cases())}
    due = [
        number
        for number, (case, half) in enumerate(cases())
        if options.half in (None, half)
        and options.kind in (None, case.kind)
        and (options.again or (case.kind, case.name) not in rows)
        and not options.table
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context) as pool:
        for future in as_completed([pool.submit(judge, number) for number in due]):
            row = future.result()
            rows[row["kind"], row["case"]] = row
            say(row)
            known = [row for key, row in rows.items() if key in order]
            write(sorted(known, key=lambda row: order[row["kind"], row["case"]]))
    known = read()
    place("verdict", table([row for row in known if row["half"] != _HABITS]))
    place("habits", habits([row for row in known if row["half"] == _HABITS]))


def say(row: dict[str, str]) -> None:
    """Print a row in a line."""
    right = "right" if row["right"] == "1" else "WRONG"
    print(
        f"{right} {row['kind']} / {row['case']}: {row['outcome']}, {row['first']} [{row['others']}] health "
        f"[{row['health']}] val/acc {row['val/acc']} {row['seconds']} s: {row['evidence']}",
        flush=True,
    )


if __name__ == "__main__":
    main()
