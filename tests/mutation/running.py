"""Judge mutants: tests are collected once, then each mutant lives in a fork of its own.

In the fork the functions of the mutant's file get the mutant's code, and the tests run until one fails. So a
mutant costs a fork and the tests that it outlives; nothing is imported or collected again.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.mutation.mutants import ROOT, Mutant, mutated

__all__ = ["Judge", "Outcome", "in_a_fork", "ordered"]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        state: ``killed``, ``survived``, ``timeout``, or ``unfit`` for one that cannot be put in.
        by: The test that noticed it.
        seconds: Until that was known.
    """

    state: str
    by: str
    seconds: float


@dataclass(eq=False)  # pytest puts its plugins into sets
class Judge:
    """A plugin of pytest that runs the collected tests on each mutant instead of once.

    Attributes:
        mutants: To be judged.
        tell: Called with each mutant and its outcome.
        quick: Tests that take more seconds without any change do not judge.
        root: The repository.
        tests: Seconds of each test that judges, by its id.
        trouble: Why nothing could be judged.
    """

    mutants: Sequence[Mutant]
    tell: Callable[[Mutant, Outcome], None]
    quick: float = 2.0
    root: Path = ROOT
    tests: dict[str, float] = field(default_factory=dict)
    trouble: str = ""
    _reports: list[pytest.TestReport] = field(default_factory=list)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        found = in_a_fork(lambda: self._timed(items.values()), 3600, self.root) or {}
        self.trouble = found.get("failed", "they do not end")
        if self.trouble:
            return True
        self.tests = {test: s for test, s in found["seconds"].items() if s < self.quick}
        limit = 3 * sum(self.tests.values()) + 60
        living = _functions(self.root)
        for mutant in self.mutants:
            chosen = [items[test] for test in ordered(self.tests, mutant)]
            start = time.monotonic()
            answer = in_a_fork(lambda m=mutant, c=chosen: self._on(m, living, c), limit, self.root)
            state = "timeout" if answer is None else answer["state"]
            by = "" if answer is None else answer["by"]
            self.tell(mutant, Outcome(state, by, time.monotonic() - start))
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def _run(self, item: pytest.Item) -> list[pytest.TestReport]:
        self._reports = []
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return self._reports

    def _timed(self, items: Iterable[pytest.Item]) -> dict[str, Any]:
        """Run the tests as they are: the first that fails, else the seconds of each that is not skipped."""
        seconds = {}
        for item in items:
            reports = self._run(item)
            for report in reports:
                if report.failed:
                    return {"failed": f"{item.nodeid}: {report.longrepr}", "seconds": {}}
            if not any(report.skipped for report in reports):
                seconds[item.nodeid] = sum(report.duration for report in reports)
        return {"failed": "", "seconds": seconds}

    def _on(
        self, mutant: Mutant, living: Mapping[str, list[FunctionType]], items: Sequence[pytest.Item]
    ) -> dict[str, str]:
        try:
            put_in(mutant, self.root, living[str(self.root / mutant.file)])
        except (SyntaxError, ValueError) as error:  # no program, or another closure
            return {"state": "unfit", "by": str(error)}
        for item in items:
            if any(report.failed for report in self._run(item)):
                return {"state": "killed", "by": item.nodeid}
        return {"state": "survived", "by": ""}


def ordered(tests: Mapping[str, float], mutant: Mutant) -> list[str]:
    """The tests, those first that name the mutant's op and file, and of these the quickest."""
    parts = Path(mutant.file).with_suffix("").parts[3:]
    words = [part for part in parts if part != "__init__"]

    def rank(test: str) -> tuple[int, float]:
        return -sum(word in test for word in words), tests[test]

    return sorted(tests, key=rank)


def put_in(mutant: Mutant, root: Path, functions: Sequence[FunctionType]) -> None:
    """Give those of ``functions``, all of the mutant's file, that it changes its code.

    Raises:
        ValueError: It changes no living function, or the variables of one's closure.
        SyntaxError: It is no program.
    """
    file = root / mutant.file
    old = compile(file.read_text(encoding="utf-8"), str(file), "exec", dont_inherit=True)
    new = compile(mutated(mutant, root), str(file), "exec", dont_inherit=True)
    changed = {_key(a): b for a, b in _pairs(old, new)}
    touched = 0
    for function in functions:
        code = changed.get(_key(function.__code__))
        if code is not None:
            function.__code__ = code
            touched += 1
    if not touched:
        raise ValueError("no living function has the line")


def _pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The pieces of code that differ, those within others included."""
    ours, theirs = (
        [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for code in (old, new)
    )
    for a, b in zip(ours, theirs, strict=False):
        if a != b:
            yield a, b
            yield from _pairs(a, b)


def _key(code: CodeType) -> tuple[str, int]:
    return code.co_name, code.co_firstlineno


def _functions(root: Path) -> dict[str, list[FunctionType]]:
    """All living functions of the repository's sources, by their files."""
    found = defaultdict(list)
    sources = str(root / "src")
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__.co_filename.startswith(sources):
            found[each.__code__.co_filename].append(each)
    return found


def in_a_fork(
    work: Callable[[], dict[str, Any]], seconds: float, root: Path = ROOT
) -> dict[str, Any] | None:
    """What ``work`` returns in a process of its own; None if it took too long or died."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        pid = os.fork()
        if pid == 0:
            _as_child(work, answer, folder, root)
        _wait(pid, seconds)
        try:
            return json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def _as_child(work: Callable[[], dict[str, Any]], answer: Path, folder: str, root: Path) -> None:
    os.setpgid(0, 0)  # so that what it starts ends with it
    os.chdir(root)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    try:
        answer.write_text(json.dumps(work()), encoding="utf-8")
    finally:
        os._exit(0)


def _wait(pid: int, seconds: float) -> None:
    """Until the process is over, or for so long; then it and what it started are ended."""
    end = time.monotonic() + seconds
    over = False
    while not over and time.monotonic() < end:
        over = bool(os.waitpid(pid, os.WNOHANG)[0])
        if not over:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # also processes of tests that it left behind
    if not over:
        os.waitpid(pid, 0)
