"""``python -m tests.mutation``: change the formulas one by one, and see whether the tests notice.

    make mutants                                          # 100 of ops/, drawn by seed 0
    python -m tests.mutation --sample 0 src/cnnexp/ops/relu.py    # all of one file
    python -m tests.mutation --list src/cnnexp/ops/relu.py        # only show them

Judged by those tests of tests/ops, tests/nn and tests/proofs that take less than ``--quick`` seconds. What is
outside functions (defaults of arguments, constants of a file) is left alone; tests/ops/test_edges.py holds
the defaults. Exit code 1 if the score, killed of those that do not compute the same, is below ``--least``.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.equivalent import reason_for
from tests.mutation.mutants import ROOT, Mutant, mutants_of
from tests.mutation.running import Judge, Outcome

TESTS = ("tests/ops", "tests/nn", "tests/proofs")
SLOW = "not compile and not graph and not export and not gpu"  # not even timed


def main() -> None:
    options = _parser().parse_args()
    files = [file for place in options.places for file in _files(ROOT / place)]
    every = [mutant for file in files for mutant in mutants_of(file, ROOT)]
    if 0 < options.sample < len(every):
        every = random.Random(options.seed).sample(every, options.sample)
        every.sort(key=lambda mutant: (mutant.file, mutant.start))
    if options.list:
        print(*every, sep="\n")
        return
    start = time.monotonic()
    rows: list[dict[str, Any]] = []

    def tell(mutant: Mutant, outcome: Outcome) -> None:
        rows.append(_row(mutant, outcome))
        print(_line(mutant, outcome), flush=True)
        if options.csv:  # each time: a run that is ended leaves what it found
            _write(options.csv, rows, _conditions(options, judge.tests))

    judge = Judge(every, tell, options.quick)
    collect = ("-q", "-s", "--no-header", "-p", "no:cacheprovider", "-k", options.expression)
    pytest.main([*collect, *options.tests], plugins=[judge])
    if judge.trouble or not judge.tests:
        sys.exit(f"without any change, tests fail: {judge.trouble or 'there are none'}")
    sys.exit(_verdict(rows, options.least, time.monotonic() - start))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("places", nargs="*", default=["src/cnnexp/ops"], help="files and folders")
    parser.add_argument("--sample", type=int, default=100, help="how many; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="what judges")
    parser.add_argument("-k", dest="expression", default=SLOW, help="of these, as in pytest")
    parser.add_argument("--quick", type=float, default=2.0, help="seconds of a test that judges")
    parser.add_argument("--least", type=float, default=0.96, help="the score to reach")
    parser.add_argument("--csv", type=Path, help="write a row for each to this file")
    parser.add_argument("--list", action="store_true", help="show the mutants, judge none")
    return parser


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


def _row(mutant: Mutant, outcome: Outcome) -> dict[str, Any]:
    reason = reason_for(mutant) if outcome.state == "survived" else ""
    return {
        "file": mutant.file,
        "line": mutant.line,
        "before": mutant.before,
        "after": mutant.after,
        "outcome": "equivalent" if reason else outcome.state,
        "by": outcome.by or reason,
        "seconds": round(outcome.seconds, 1),
    }


def _line(mutant: Mutant, outcome: Outcome) -> str:
    return f"{outcome.state:9}{outcome.seconds:6.0f} s  {mutant}  {outcome.by}"


def _conditions(options: argparse.Namespace, tests: Mapping[str, float]) -> dict[str, Any]:
    import torch

    from cnnexp.speed.result import conditions

    judged_by = {"tests": len(tests), "of": " ".join(options.tests)}
    return {"seed": options.seed, **judged_by, **conditions(torch.device("cpu"))}


def _write(file: Path, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    whole = [{**row, **about} for row in rows]
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(whole[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(whole)


def _verdict(rows: list[dict[str, Any]], least: float, seconds: float) -> int:
    counts = dict.fromkeys(("killed", "timeout", "survived", "equivalent", "unfit"), 0)
    for row in rows:
        counts[row["outcome"]] += 1
    noticed = counts["killed"] + counts["timeout"]
    judged = noticed + counts["survived"]
    score = noticed / judged if judged else 1.0
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"score {score:.1%} of {judged} ({said}), {seconds:.0f} s")
    return 0 if score >= least else 1


if __name__ == "__main__":
    os.nice(19)
    main()
