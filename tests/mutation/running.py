"""Run the tests on a mutant: in a forked process, whose imports find the mutant in the file's place."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from tests.mutation.mutants import ROOT, Mutant, mutated

__all__ = ["Outcome", "durations", "in_a_fork", "judge", "ordered"]

_OPTIONS = ("-x", "-q", "--no-header", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        state: ``killed``, ``survived`` or ``timeout``.
        by: The test that noticed it.
        seconds: Until that was known.
    """

    state: str
    by: str
    seconds: float


def durations(places: Sequence[str], expression: str, seconds: float) -> dict[str, float]:
    """Run the tests in ``places`` as they are: seconds of each that passes, by its id.

    Args:
        places: Files and folders of tests.
        expression: Which of them, as pytest's ``-k`` has it.
        seconds: After so long, give up.

    Raises:
        SystemExit: A test fails without any mutant.
    """
    found = in_a_fork(lambda: _run([*places, "-k", expression], _Timed()), seconds)
    if found is None or found["failed"]:
        raise SystemExit(
            f"without any change, tests fail or do not end: {found and found['failed']}"
        )
    return found["seconds"]


def ordered(tests: Mapping[str, float], mutant: Mutant) -> list[str]:
    """The tests, those first that name the mutant's op and file, and of these the quickest."""
    parts = Path(mutant.file).with_suffix("").parts[3:]
    words = [part for part in parts if part != "__init__"]

    def rank(test: str) -> tuple[int, float]:
        return -sum(word in test for word in words), tests[test]

    return sorted(tests, key=rank)


def judge(mutant: Mutant, tests: Mapping[str, float], seconds: float, root: Path = ROOT) -> Outcome:
    """Run ``tests`` on ``mutant`` until one fails.

    First those in which its op is named, then all: most mutants do not outlive the first.

    Args:
        mutant: The change.
        tests: Ids, and seconds of each, see :func:`durations`.
        seconds: A mutant that takes longer loops or crawls, and counts as noticed.
        root: The repository.
    """
    start = time.monotonic()
    in_order = ordered(tests, mutant)
    word = next(iter(Path(mutant.file).with_suffix("").parts[3:]), "")
    first = [test for test in in_order if word and word in test]
    rest = [test for test in in_order if test not in set(first)]
    for some in (first, rest):
        if not some:
            continue
        places = sorted({test.partition("::")[0] for test in some})
        found = in_a_fork(lambda s=some, p=places: _run(p, _Chosen(s), mutant, root), seconds, root)
        if found is None:
            return Outcome("timeout", "", time.monotonic() - start)
        if found["failed"]:
            return Outcome("killed", found["failed"], time.monotonic() - start)
    return Outcome("survived", "", time.monotonic() - start)


class _Timed:
    """Notes the first test that fails, and how long each takes."""

    def __init__(self) -> None:
        self.failed = ""
        self.seconds: dict[str, float] = {}
        self.skipped: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed = self.failed or report.nodeid
        elif report.skipped:
            self.skipped.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or f"collection of {report.nodeid}"


class _Chosen(_Timed):
    """Lets only the chosen tests run, in their order."""

    def __init__(self, chosen: Sequence[str]) -> None:
        super().__init__()
        self._place = {test: place for place, test in enumerate(chosen)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [item for item in items if item.nodeid in self._place]
        items[:] = sorted(kept, key=lambda item: self._place[item.nodeid])


def _run(
    places: Sequence[str], plugin: _Timed, mutant: Mutant | None = None, root: Path = ROOT
) -> dict[str, Any]:
    """Within the fork: run the tests of ``places``, and say what happened."""
    if mutant is not None:
        try:
            source = mutated(mutant, root)
        except SyntaxError:
            return {"failed": "no program", "seconds": {}}
        sys.meta_path.insert(0, _InPlace(mutant, source, root))
        if "/kernels/" in mutant.file:  # numba would find the unchanged kernel in its cache
            os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(dir=os.environ["TMPDIR"])
    code = pytest.main([*_OPTIONS, *places], plugins=[plugin])
    failed = plugin.failed or ("" if code in (0, 5) else f"pytest ends with {int(code)}")
    seconds = {test: s for test, s in plugin.seconds.items() if test not in plugin.skipped}
    return {"failed": failed, "seconds": seconds}


class _InPlace(importlib.abc.MetaPathFinder):
    """Finds the mutant where the module's own file would be found."""

    def __init__(self, mutant: Mutant, source: str, root: Path) -> None:
        self._file = root / mutant.file
        parts = list(Path(mutant.file).with_suffix("").parts[1:])
        self._package = parts[-1] == "__init__"
        self._name = ".".join(parts[:-1] if self._package else parts)
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Loader(fullname, str(self._file), self._source)
        places = [str(self._file.parent)] if self._package else None
        return importlib.util.spec_from_file_location(
            fullname, self._file, loader=loader, submodule_search_locations=places
        )


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self._text = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


def in_a_fork(
    work: Callable[[], dict[str, Any]], seconds: float, root: Path = ROOT
) -> dict[str, Any] | None:
    """What ``work`` returns in a process of its own; None if it took too long or died."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        pid = os.fork()
        if pid == 0:
            _as_child(work, answer, folder, root)
        with contextlib.suppress(ProcessLookupError):
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
        found = work()
    except BaseException as error:  # whatever a mutant does to pytest itself is noticed
        found = {"failed": f"{type(error).__name__}: {error}", "seconds": {}}
    try:
        answer.write_text(json.dumps(found), encoding="utf-8")
    finally:
        os._exit(0)


def _wait(pid: int, seconds: float) -> None:
    """Until the process is over, or for so long; then it and what it started are ended."""
    for _ in _ticks(seconds):
        if os.waitpid(pid, os.WNOHANG)[0]:
            break
    else:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # processes of tests that it left behind


def _ticks(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.05)
