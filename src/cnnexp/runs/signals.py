"""The signals that ask a run to stop: a terminal's, a supervisor's, a cluster's ahead of a preemption."""

from __future__ import annotations

import signal

STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1")
    if hasattr(signal, name)  # Windows has no SIGUSR1
)
