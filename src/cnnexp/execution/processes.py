"""Processes that run one job each: forked from a warm server, or started anew."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, resource_tracker
from types import FrameType
from typing import Any

from cnnexp.execution.job import Job
from cnnexp.execution.slots import thread_caps
from cnnexp.runs.signals import STOPPING

# the environment variable that makes a worker print into the job's train.log, not on the terminal
OWN_LOG = "CNNEXP_OWN_LOG"

Target = Callable[[str, connection.Connection, dict[str, str], int], None]


class JobProcess(ABC):
    """A process that runs a job.

    Attributes:
        pid: The process number.
    """

    pid: int

    @abstractmethod
    def exit_code(self) -> int | None:
        """The exit code: None as long as the process runs, negative if a signal ended it."""

    @abstractmethod
    def close(self) -> None:
        """Release the resources of the process, once it has ended."""

    def send(self, number: int) -> None:
        """Send the signal ``number`` to the process, if it still runs."""
        if self.exit_code() is not None:
            return
        # the process leads a session of its own, so that killing it includes its data workers and ranks
        send = os.killpg if number == signal.SIGKILL else os.kill
        with suppress(ProcessLookupError, PermissionError):
            send(self.pid, number)


def wait_for_any(processes: Sequence[JobProcess], seconds: float) -> None:
    """Return as soon as one of ``processes`` ends, or after this many ``seconds``."""
    sentinels = [p.sentinel for p in processes if isinstance(p, _Forked)]
    if sentinels:
        connection.wait(sentinels, seconds)
    else:
        time.sleep(seconds)


class _Forked(JobProcess):
    def __init__(
        self,
        context: multiprocessing.context.ForkServerContext,
        target: Target,
        job: Job,
        environment: Mapping[str, str],
        threads: int,
    ) -> None:
        far, self._lifeline = context.Pipe(duplex=False)
        self._process = context.Process(
            target=target, args=(job.to_json(), far, dict(environment), threads)
        )
        self._process.start()
        far.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    def exit_code(self) -> int | None:
        return self._process.exitcode

    def close(self) -> None:
        self._process.join()
        self._process.close()
        self._lifeline.close()


class _Anew(JobProcess):
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()

    def close(self) -> None:
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def warm_up() -> multiprocessing.context.ForkServerContext:
    """Start the server that imports what jobs need, if there is none yet, without waiting for it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cnnexp.execution.warm"])
    # a terminal sends Ctrl-C to every process of a command: the server would end by it while it imports. It
    # would start the tracker as well, which unblocks signals
    for start in (resource_tracker.ensure_running, forkserver.ensure_running):
        with _blocked(STOPPING):
            start()
    return context


@contextmanager
def _blocked(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Let these signals wait; processes that are started in the context inherit that, and unblock them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_ctrl_c() -> None:
    """Let this process, which was started anew, get Ctrl-C: one that has come already is raised here."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def take_signals() -> None:
    """Let this process, forked from the warm server, get signals; a Ctrl-C in the terminal was not for it."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def fork_warm(job: Job, environment: Mapping[str, str], threads: int, target: Target) -> JobProcess:
    """Run ``job`` in a process forked from the warm server.

    Args:
        job: A job of one rank.
        environment: Variables added to the server's environment.
        threads: How many processor threads the process may use.
        target: The function that the process runs, such as ``cnnexp.execution.worker.forked``.
    """
    context = warm_up()
    with _nameless_main():
        return _Forked(context, target, job, environment, threads)


@contextmanager
def _nameless_main() -> Iterator[None]:
    """Keep processes started inside the context from running this process's main module again."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    main.__spec__ = None
    if file is not None:
        del main.__file__
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file


def open_worker(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start ``python -m cnnexp.execution.worker`` for ``job``; it ends when its standard input is closed."""
    # imports take seconds, in which Ctrl-C would leave a traceback
    with _blocked([signal.SIGINT]):
        process = subprocess.Popen(
            [sys.executable, "-m", "cnnexp.execution.worker"],
            stdin=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
            start_new_session=True,  # a signal to the group reaches it once: through this process
        )
    assert process.stdin is not None
    process.stdin.write(job.to_json() + "\n")
    process.stdin.flush()
    return process


def start_anew(job: Job, environment: Mapping[str, str], threads: int) -> JobProcess:
    """Run ``job`` in a newly started process, which a job that starts ranks needs."""
    caps = thread_caps(threads)
    return _Anew(open_worker(job, {**caps, **environment, OWN_LOG: "1"}))


def how_it_ended(code: int) -> str:
    """A sentence for the exit code of a process that could not report how it ended."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{hint}"


@contextmanager
def handling(
    numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Let ``handler`` get these signals inside the context, except ignored ones, as background jobs have.

    In another thread than the main one, which gets no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    for number, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
