"""A fork of this process that works for a while within limits."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

_GRACE = 5.0  # seconds beyond the limit, for a process that does not end by itself


def can_fork() -> bool:
    """Whether a fork is safe here: on Linux, from a process of one thread (as Python counts them)."""
    return sys.platform == "linux" and threading.active_count() == 1


def forked(work: Callable[[], None], folder: Path, seconds: float) -> int | None:
    """Run ``work`` in a fork, in ``folder``, with nothing to read and a file to print to.

    Returns:
        The exit code of the fork; None if it was stopped because its time was over. If its time ends in
        Python code, ``hang.txt`` in the folder says where.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():  # of threads of libraries: the child uses none of them
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        _work_and_end(work, folder, seconds)
    end = time.monotonic() + seconds + _GRACE
    code = None
    while code is None and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):  # and all that it has started
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    return code


def _work_and_end(work: Callable[[], None], folder: Path, seconds: float) -> None:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        printed = os.open(folder / "printed.txt", os.O_WRONLY | os.O_CREAT)
        for stream, to in ((0, nothing), (1, printed), (2, printed)):
            os.dup2(to, stream)
        sys.stdin = os.fdopen(0)  # that of a notebook asks its user
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        os.chdir(folder)
        with (folder / "hang.txt").open("w") as hang:
            faulthandler.dump_traceback_later(seconds, exit=True, file=hang)
            work()
            faulthandler.cancel_dump_traceback_later()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
