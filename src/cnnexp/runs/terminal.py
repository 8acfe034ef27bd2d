"""The form of log lines on the terminal."""

from __future__ import annotations

import logging
from typing import Any


class TerminalFormatter(logging.Formatter):
    """The message alone: tracebacks are for train.log."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def formatException(self, ei: Any) -> str:
        """An empty text; the next handler formats the exception anew."""
        return ""
