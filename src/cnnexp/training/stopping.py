"""Signals that ask a training to stop, which it does between two steps."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from cnnexp.runs import process_rank
from cnnexp.runs.signals import STOPPING, stop_code

_ECHO = 1.0  # seconds in which SIGTERM may come twice: from a cluster, and from the process that started this


class TrainingStopped(BaseException):
    """The training was interrupted; ``code`` is the exit code that says by what (130, 143).

    As KeyboardInterrupt, no ``except Exception`` on the way may take it for a failure.
    """

    def __init__(self, code: int, signal_name: str | None = None) -> None:
        by = signal_name or ("Ctrl-C" if code == 130 else "SIGTERM")
        super().__init__(f"stopped by {by}")
        self.code = code


class TrainingPruned(Exception):
    """A search has ended the training, as others of its trials are better."""


class StopSignals:
    """Within it, SIGTERM, SIGINT and SIGUSR1 set a flag; a second one raises at once.

    Clusters send SIGTERM to every process, and a launcher hands it on: what follows within a second, other
    than Ctrl-C, is no second one. SIGUSR1 is what clusters send ahead of a preemption. In another thread
    than the main one, which gets no signals, it does nothing.

    Attributes:
        request: What to raise between two steps; None as long as nobody asked.
        steps_per_call: How many steps are done before one looks.
    """

    def __init__(self) -> None:
        self.request: TrainingStopped | None = None
        self.steps_per_call = 1
        self._asked = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in STOPPING}
            for number, handler in self._before.items():
                if handler is not signal.SIG_IGN:  # as a shell's background jobs are told to do
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        stop = TrainingStopped(stop_code(number), name)
        if self.request is not None:
            if number != signal.SIGINT and time.monotonic() - self._asked < _ECHO:
                return
            for each in self._before:  # a third one ends the process
                signal.signal(each, signal.SIG_DFL)
            raise stop
        self.request, self._asked = stop, time.monotonic()
        here = process_rank()
        if here is None or here.rank == 0:
            # logging is not for signal handlers
            steps = self.steps_per_call
            when = "this step" if steps == 1 else f"this call of up to {steps} steps"
            os.write(2, f"{name}: stopping after {when}; once more stops at once\n".encode())
