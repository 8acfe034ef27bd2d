"""Run functions that are at hand, such as those of a notebook's cell, in a fork with limits."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnexp.commandline import Misuse
from cnnexp.grading.cases import Case
from cnnexp.grading.forking import forked
from cnnexp.grading.process import Limits, Outcome, read_outcome
from cnnexp.grading.submission import NothingToGradeError, Submission, find
from cnnexp.grading.worker import failure, limit, quiet, run_all


def run_at_hand(
    names: Mapping[str, Any], op: str, cases: Sequence[Case], limits: Limits
) -> Outcome:
    """Run functions or a class on the cases.

    Raises:
        Misuse: They cannot be graded.
    """
    if "forward" in names:
        forward, backward = names["forward"], names["backward"]
        submission = _functions(op, forward, backward)
    else:
        try:
            submission = find(op, names, _uses_torch(names["work"]))
        except NothingToGradeError as error:
            raise Misuse(str(error)) from error
    file = Path(_file_of(names))
    with tempfile.TemporaryDirectory(prefix="grade-") as place:
        folder = Path(place)
        code: int | None = 0

        def work() -> None:
            limit(limits.memory * 2**20, limits.seconds)
            _work(submission, cases, folder, str(file))

        # a notebook has threads, so that a fork is no more than mostly safe
        if hasattr(os, "fork"):
            code = forked(work, folder, limits.seconds)
        else:  # Windows: no limits, and an endless loop is one
            _work(submission, cases, folder, str(file))
        outcome = read_outcome(folder, file, code, limits)
        outcome.about["isolated"] = hasattr(os, "fork")
        return outcome


def _functions(op: str, forward: Any, backward: Any) -> Submission:
    from cnnexp.grading.contract import CONTRACTS

    kind = "torch" if _uses_torch(forward) or _uses_torch(backward) else "numpy"
    return Submission(CONTRACTS[op], "functions", forward, backward, kind)


def _uses_torch(value: Any) -> bool:
    """Whether the code of a function, or of a class's methods, speaks of torch."""
    code = getattr(value, "__code__", None)
    if code is None and inspect.isclass(value):
        methods = [getattr(m, "__func__", m) for m in vars(value).values()]
        return any(_uses_torch(method) for method in methods if inspect.isfunction(method))
    return code is not None and bool({"torch", "F", "nn"} & set(code.co_names))


def _file_of(names: Mapping[str, Any]) -> str:
    value = names.get("forward") or names["work"]
    for found in (value, getattr(value, "forward", None)):
        code = getattr(getattr(found, "__func__", found), "__code__", None)
        if code is not None:
            return str(code.co_filename)
    return "<work>"


def _work(submission: Submission, cases: Sequence[Case], folder: Path, file: str) -> None:
    import json

    try:
        with quiet():
            outcome = run_all(submission, list(cases), folder, file)
    except BaseException as error:  # the student's code may end anywhere
        outcome = {"error": failure(error, file, "runs")}
    (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
