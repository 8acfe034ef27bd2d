"""Run ``python -m cnnexp.…`` in a process forked from one that has imported torch and lightning already.

A process of its own as any other, with its own arguments, environment, folder, output and exit code; only
the imports, some 5 s a command, are saved.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnnexp.sweeps.processes import _nameless_main


def _as_command(
    arguments: Sequence[str], environment: Mapping[str, str], folder: str, out: str, err: str
) -> None:
    for number, file in ((1, out), (2, err)):
        handle = os.open(file, os.O_WRONLY)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    for each in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(each, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module, *rest = arguments
    sys.argv[:] = [module, *rest]
    sys.orig_argv[:] = [sys.executable, "-m", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_warm(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run([python, "-m", *arguments], …)``, for a module of cnnexp."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cnnexp.sweeps.warm"])
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("out", "err")]
        for file in files:
            file.touch()
        given = (list(arguments), dict(environment), str(folder), *map(str, files))
        process = context.Process(target=_as_command, args=given)
        with _nameless_main():
            process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        out, err = (file.read_text(encoding="utf-8") for file in files)
    return subprocess.CompletedProcess(list(arguments), process.exitcode, out, err)
