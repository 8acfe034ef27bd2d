"""The kernels' compilation: reported while it lasts, its results kept, its time counted apart.

numba compiles a kernel when it is called for the first time with arguments of its kind, Triton too; both
keep the result in a cache folder, so that it happens once a machine. numba tells of it beforehand, by its
events, and only where the cache lacks the kernel; Triton tells afterwards. ``torch.compile`` compiles for
each size of batch; ``graphs`` counts that, and ``cnnexp.tuning.compiled`` lets it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import torch

log = logging.getLogger(__name__)

_seconds = 0.0
_watching: list[_Watch] = []


def seconds_compiling() -> float:
    """How long this process has compiled so far."""
    return _seconds


def clock() -> float:
    """Seconds on a clock that stands still while something is compiled: for the pace of a training.

    Like ``time.perf_counter``, whose differences alone mean something.
    """
    return time.perf_counter() - _seconds


def has_kernels() -> bool:
    """Whether this process has imported kernels of numba's, so that one more costs it nothing to import."""
    return bool(_watching)


def watch_numba(folder: str) -> None:
    """Say from now on what numba compiles of cnnexp's, and count how long; start its threads, as torch's.

    Args:
        folder: Where it keeps the results, see ``cnnexp.kernels.cpu.numba_internals.cache_folder``.
    """
    from cnnexp.kernels.cpu.numba_internals import start_threads, tell_of_compilations
    from cnnexp.kernels.threads import follow_torch

    if not _watching:
        # numba's OpenMP threads set the number of torch's, and sums of torch's depend on that number
        threads = torch.get_num_threads()
        start_threads()
        torch.set_num_threads(threads)
        follow_torch()
        _watching.append(_Watch(folder))
        tell_of_compilations(_watching[0].begin, _watching[0].end)


@contextmanager
def said_on(stream: TextIO) -> Iterator[None]:
    """Say it on ``stream``, in commands that set up no logging."""
    handler, level = logging.StreamHandler(stream), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Watch:
    """Counts compilations; one within another is part of it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.depth = self.done = 0
        self.began = self.seconds = 0.0

    def begin(self, function: Any) -> None:
        if self.depth == 0 and not function.__module__.startswith("cnnexp."):
            return  # a user's
        if self.depth == 0:
            self.began = time.perf_counter()
            if self.done == 0:
                self.announce()
        self.depth += 1

    def end(self, function: Any) -> None:
        global _seconds
        if self.depth == 0:
            return
        self.depth -= 1
        if self.depth == 0:
            self.done += 1
            took = time.perf_counter() - self.began
            _seconds += took
            self.seconds += took
            log.info("compiled %s: %d so far, %.0f s", function.__name__, self.done, self.seconds)

    def announce(self) -> None:
        if self.folder:
            log.info(
                "compiling kernels for this processor, once a machine: about half a minute (kept in %s)",
                self.folder,
            )
        else:
            log.warning(
                "compiling kernels for this processor, about half a minute at every start, since no "
                "folder can be written to keep them in: set NUMBA_CACHE_DIR to one that can"
            )


class _Graphs:
    """Counts how long torch.compile compiles."""

    began = 0.0
    compiling = False

    def begin(self, _told: object = None) -> None:
        """Start to count."""
        self.began, self.compiling = time.perf_counter(), True

    def end(self, _told: object = None) -> None:
        """Count no longer."""
        global _seconds
        _seconds += time.perf_counter() - self.began
        self.compiling = False


graphs = _Graphs()


def watch_triton() -> None:
    """Count from now on how long Triton compiles."""
    from triton import knobs

    before = knobs.compilation.listener

    def listen(**details: Any) -> None:
        global _seconds
        if not details["cache_hit"] and not graphs.compiling:  # else it is part of that
            _seconds += details["times"].total / 1e6
        if before is not None:
            before(**details)

    knobs.compilation.listener = listen
