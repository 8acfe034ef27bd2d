"""One process a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FolderInUseError", "folder_lock"]


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
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise FolderInUseError(
                        f"another process is training in {folder}; wait for it, or stop it"
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)
