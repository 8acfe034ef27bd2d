"""The signals that ask a run to stop: a terminal's, a supervisor's, a cluster's ahead of a preemption."""

from __future__ import annotations

import signal

STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1")
    if hasattr(signal, name)  # Windows has no SIGUSR1
)


def stop_code(number: int) -> int:
    """The exit code of what the signal ``number`` stopped: 130 for Ctrl-C, 143 for the others."""
    return 130 if number == signal.SIGINT else 143
