"""Run ``python -m cnnexp.…`` in a process forked from one that has imported torch and lightning already.

A process of its own as any other, with its own arguments, environment, folder, output and exit code; only
the imports, some 5 s a command, are saved. The jobs of a sweep are forked from the same one, instead of
from a server that the command would start. (tests/sweeps/crash.py, tests/test_readme.py and others start
commands as a shell does.)
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from cnnexp.execution import processes
from cnnexp.execution.worker import forked
from cnnexp.sweeps import launcher

__all__ = ["WarmProcess", "run_warm"]


def _as_command(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    out: str,
    err: str,
    new_session: bool,
) -> None:
    if new_session:
        os.setsid()
    for number, file in ((1, out), (2, err)):
        handle = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    processes.take_signals()
    # what it starts by itself, as workers of a loader, it starts as a command does
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    # the server that this process is forked from serves its jobs as well
    for each in (forkserver, forkserver._forkserver):
        each.ensure_running = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    launcher.forked = partial(_as_job, dict(environment))
    module, *rest = arguments
    sys.argv[:] = [module, *rest]
    sys.orig_argv[:] = [sys.executable, "-m", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _as_job(environment: Mapping[str, str], *arguments: Any) -> None:
    """A job of a sweep, with the environment of the command instead of the server's."""
    os.environ.clear()
    os.environ.update(environment)
    forked(*arguments)


class WarmProcess:
    """As ``subprocess.Popen([python, "-m", *arguments], …)``, for a module of cnnexp.

    Args:
        arguments: The module, and its arguments.
        environment: The whole of it.
        folder: To work in.
        err_to_out: One output for both.
        new_session: In a session and process group of its own.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        *,
        err_to_out: bool = False,
        new_session: bool = False,
    ) -> None:
        self.arguments = list(arguments)
        self._place = Path(tempfile.mkdtemp())
        self._files = [self._place / name for name in ("out", "out" if err_to_out else "err")]
        for file in self._files:
            file.touch()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["cnnexp.execution.warm"])
        places = (str(folder), *map(str, self._files), new_session)
        self._process = context.Process(
            target=_as_command, args=(self.arguments, dict(environment), *places)
        )
        with processes._nameless_main():
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None as long as it runs; negative if a signal ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As of ``subprocess.Popen``."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As of ``subprocess.Popen``."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As of ``subprocess.Popen``."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end; what it has written. It is killed if that takes longer than ``timeout``."""
        self._process.join(timeout)
        late = self._process.exitcode is None
        if late:
            self._process.kill()
            self._process.join()
        out, err = (file.read_text(encoding="utf-8") for file in self._files)
        shutil.rmtree(self._place)
        if late:
            raise subprocess.TimeoutExpired(self.arguments, timeout, out, err)
        return out, err


def run_warm(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run([python, "-m", *arguments], …)``, for a module of cnnexp."""
    process = WarmProcess(arguments, environment, folder)
    out, err = process.communicate(timeout)
    code = process.returncode
    assert code is not None
    return subprocess.CompletedProcess(list(arguments), code, out, err)
