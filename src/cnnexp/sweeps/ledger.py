"""The ledger of a sweep: a folder with one subfolder per job, named by the hash of the job's config.

::

    sweep.json               the arguments of the last command, and the folder in which it was given
    stop                     exists as long as all launchers are asked to stop
    <job-id>/                a run folder; besides the run's own files it holds
        job.json             the overrides that distinguish the job
        claim                locked by the launcher that has the job; names its host, its process, the job's

A job is claimed by a lock that the operating system releases when the claimer ends, in whatever way: the
jobs of a dead launcher are free at once. Several launchers, on several machines if their file system has
locks, share one ledger.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnexp.runs import RunFolder, RunFolderError, config_hash
from cnnexp.runs.files import read_json, write_json
from cnnexp.runs.lock import try_lock
from cnnexp.runs.sweep import SWEEP, by_overrides


class Claim:
    """The claim of this process on a job, until it is given back."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def note(self, pid: int) -> None:
        """Record in the claim file this host and process, and the process ``pid`` that runs the job."""
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, f"{socket.gethostname()} {os.getpid()} {pid}\n".encode(), 0)

    def give_back(self) -> None:
        """Release the job for others."""
        os.close(self._handle)


@dataclass(frozen=True)
class JobStatus:
    """The present state of one job in the ledger.

    Attributes:
        id: The hash of its config.
        overrides: The overrides that distinguish it.
        state: ``waiting``, ``running``, ``interrupted`` (no process runs it any more), ``done``,
            ``failed``, ``stopped``, ``pruned`` (of a search), or ``unreadable`` (a file is damaged).
        status: The content of status.json; of an unreadable job the ``error`` alone.
        folder: Its run folder.
    """

    id: str
    overrides: Sequence[str]
    state: str
    status: Mapping[str, Any]
    folder: RunFolder


class Ledger:
    """Read and write a sweep's folder.

    Args:
        path: The folder; it is made at the first write.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.sweep = self.path / SWEEP
        self.stop = self.path / "stop"

    def __str__(self) -> str:
        return str(self.path)

    def begin(self, arguments: Sequence[str]) -> None:
        """Record the arguments of ``cnnexp.train``, and withdraw a request to stop."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.stop.unlink(missing_ok=True)
        content = {"arguments": list(arguments), "folder": os.getcwd()}
        if read_json(self.sweep) != content:
            write_json(self.sweep, content)

    def command(self) -> tuple[list[str], str]:
        """The arguments of the last command, and the folder in which it was given; [] if there was none."""
        content = read_json(self.sweep)
        return list(content.get("arguments", [])), str(content.get("folder", "."))

    def ask_to_stop(self) -> None:
        """Ask all launchers to stop; they check for this every second."""
        self.stop.touch()

    def add(self, config: Mapping[str, Any], overrides: Sequence[str]) -> str:
        """Enter the job of ``config`` (resolved, plain types) if it is new; return its id."""
        job = config_hash(config)
        folder = self.folder(job)
        folder.path.mkdir(parents=True, exist_ok=True)
        if not folder.job.exists():
            if not folder.config.exists():
                folder.write_config(config)
            write_json(folder.job, {"overrides": list(overrides)})
        return job

    def folder(self, job: str) -> RunFolder:
        """The job's run folder."""
        return RunFolder(self.path / job)

    def claim(self, job: str) -> Claim | None:
        """Claim the job; None if another process has it."""
        handle = os.open(self.path / job / "claim", os.O_RDWR | os.O_CREAT, 0o644)
        if not try_lock(handle):
            os.close(handle)
            return None
        return Claim(handle)

    def is_claimed(self, job: str) -> bool:
        """Whether a process has claimed the job."""
        file = self.path / job / "claim"
        try:
            handle = os.open(file, os.O_RDWR)
        except FileNotFoundError:
            return False
        except PermissionError:
            # somebody else's sweep, of which status.json is all that can be known
            return True
        try:
            return not try_lock(handle)
        finally:
            os.close(handle)

    def entry(self, job: str) -> JobStatus:
        """The present entry of the job; one that cannot be read leaves the others alone."""
        folder, overrides = self.folder(job), []
        try:
            overrides = list(read_json(folder.job).get("overrides", []))
            status = folder.read_status()
            state = str(status.get("state", "waiting"))
            if state == "done":  # whoever looks at it asks for these
                folder.read_result()
                folder.read_provenance()
        except RunFolderError as error:
            reason = f"{error}; mend the file, or delete {folder}: the job runs again then"
            return JobStatus(job, overrides, "unreadable", {"error": reason}, folder)
        if state == "running" and not self.is_claimed(job):
            state = "interrupted"
        return JobStatus(job, overrides, state, status, folder)

    def entries(self) -> Iterator[JobStatus]:
        """The entries of all jobs, sorted by their overrides."""
        jobs = [file.parent.name for file in self.path.glob("*/job.json")]
        yield from sorted(map(self.entry, jobs), key=by_overrides)
