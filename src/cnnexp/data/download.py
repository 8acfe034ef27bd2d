"""The time limit that all downloads share."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["download_timeout"]

_TIMEOUT = 15.0  # seconds without an answer


@contextmanager
def download_timeout() -> Iterator[None]:
    """Let torchvision's download, which sets no time limit, fail instead of hang."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
