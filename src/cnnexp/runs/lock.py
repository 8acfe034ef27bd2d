"""Locks on files, by which one process at a time has a run folder or a job."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderInUseError(RuntimeError):
    """Another process is training in the run folder."""


@contextmanager
def folder_lock(folder: Path, patience: float = 10.0) -> Iterator[None]:
    """Hold ``folder`` for this process; the system lets it go when the process ends, however it does.

    Args:
        folder: An existing folder; nothing is written into it.
        patience: Seconds to wait: the data workers of a killed run outlive it by some.

    Raises:
        FolderInUseError: Another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + patience
        while not try_lock(handle):
            if time.monotonic() >= deadline:
                raise FolderInUseError(
                    f"another process is training in {folder}; wait for it, or stop it"
                )
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Lock the open file ``handle`` for this process, and return whether that worked.

    The system releases the lock when the process ends. On Windows nothing is locked.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
