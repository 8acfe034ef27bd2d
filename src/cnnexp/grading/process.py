"""Start a student's work in a process of its own, wait no longer than allowed, read its answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnnexp.commandline import Misuse
from cnnexp.grading.answers import Answer
from cnnexp.grading.cases import Case
from cnnexp.grading.forking import can_fork, forked
from cnnexp.kept_memory import VARIABLES


@dataclass(frozen=True)
class Limits:
    """What a student's process may take.

    Attributes:
        seconds: Of the clock, for everything.
        memory: Mebibytes beyond what Python and the libraries take.
    """

    seconds: float = 30.0
    memory: int = 1024


@dataclass
class Outcome:
    """What came back from a student's process.

    Attributes:
        answers: By the number of the case.
        errors: By the number of the case: what the student's code raised, see ``worker.failure``.
        fatal: What ended everything, in the same form; None if nothing did.
        about: What else the worker said: the settings taken, conventions found, cost.
    """

    answers: dict[int, Answer] = field(default_factory=dict)
    errors: dict[int, dict[str, Any]] = field(default_factory=dict)
    fatal: dict[str, Any] | None = None
    about: dict[str, Any] = field(default_factory=dict)


def run_file(file: Path, op: str, cases: Sequence[Case], limits: Limits) -> Outcome:
    """Run the work in ``file`` on the cases.

    Raises:
        Misuse: The file offers nothing that could be graded.
    """
    with tempfile.TemporaryDirectory(prefix="grade-") as place:
        folder = Path(place)
        _write_job(folder, file, op, cases, limits)
        if can_fork() and "torch" in sys.modules:  # nothing has to be imported once more
            from cnnexp.grading.worker import do_job

            code = forked(lambda: do_job(folder), folder, limits.seconds)
        else:
            code = _wait(folder, limits)
        return read_outcome(folder, file, code, limits)


def _write_job(folder: Path, file: Path, op: str, cases: Sequence[Case], limits: Limits) -> None:
    sent = {f"g{place}": case.grad_output for place, case in enumerate(cases)}
    numbers = np.array([case.number for case in cases])
    np.savez(folder / "cases.npz", numbers=numbers, **sent)  # pyright: ignore[reportArgumentType]
    job = {
        "file": str(file.resolve()),
        "op": op,
        "seconds": limits.seconds,
        "memory": limits.memory * 2**20,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def _wait(folder: Path, limits: Limits) -> int | None:
    """The exit code of the student's process; None if it was stopped because its time was over."""
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "MPLBACKEND": "agg",
    }
    for name in VARIABLES:  # kept memory would count against the student's limit
        environment.pop(name, None)
    with (folder / "printed.txt").open("wb") as printed:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "cnnexp.grading.worker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=os.name == "posix",
        )
        try:
            return process.wait(limits.seconds + 15)  # Python and torch have to be imported as well
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the process and all that it has started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()


def read_outcome(folder: Path, file: Path, code: int | None, limits: Limits) -> Outcome:
    """What the worker has written into ``folder`` by the time that it ended with ``code``.

    Raises:
        Misuse: The worker found nothing that could be graded.
    """
    about: dict[str, Any] = {}
    if (folder / "outcome.json").exists():
        about = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    if "misuse" in about:
        raise Misuse(f"{file}: {about['misuse']}")
    outcome = Outcome(about=about)
    outcome.errors = {int(number): error for number, error in about.get("errors", {}).items()}
    outcome.fatal = about.get("error")
    if not about:
        outcome.fatal = _ended(folder, file, code, limits)
    for answer in folder.glob("answer*.npz"):
        outcome.answers[int(answer.stem.removeprefix("answer"))] = _answer(answer)
    return outcome


def _answer(file: Path) -> Answer:
    with np.load(file, allow_pickle=False) as stored:
        arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
    notes = [str(note) for note in arrays.pop("notes")]
    return Answer(arrays.pop("y", None), arrays, notes)


def _ended(folder: Path, file: Path, code: int | None, limits: Limits) -> dict[str, Any]:
    """Why there is no outcome, in the form of ``worker.failure``."""
    line, text = None, ""
    hang = folder / "hang.txt"
    if hang.exists():
        own = [row for row in hang.read_text().splitlines() if f'"{file.resolve()}"' in row]
        if own and file.is_file():
            line = int(own[0].partition(", line ")[2].split(" ")[0])
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            text = lines[line - 1].strip() if line <= len(lines) else ""
    late = code is None or bool(hang.exists() and hang.stat().st_size)
    late = late or (os.name == "posix" and code in (-signal.SIGXCPU, -signal.SIGKILL))
    kind = "TimeLimit" if late else "Ended"
    message = (
        f"it was stopped after {limits.seconds:g} seconds: an endless loop, or far too slow"
        if late
        else f"the process ended by itself with code {code}"
    )
    return {
        "kind": kind,
        "message": message,
        "line": line,
        "text": text,
        "function": "",
        "doing": "runs",
    }
