"""Run jobs of a ledger on this machine, several at a time, each in a process of its own."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from cnnexp.config.errors import ConfigError
from cnnexp.config.ranges import check_above_0, check_list, check_whole
from cnnexp.config.resumption import trained_on
from cnnexp.execution.job import Job
from cnnexp.execution.processes import (
    JobProcess,
    fork_warm,
    handling,
    how_it_ended,
    start_anew,
    wait_for_any,
)
from cnnexp.execution.slots import GPUPool, cores, gpus_of, visible_gpus
from cnnexp.execution.worker import forked
from cnnexp.runs import RunFolderError
from cnnexp.runs.signals import STOPPING, stop_code
from cnnexp.sweeps.ledger import Claim, JobStatus, Ledger
from cnnexp.sweeps.view import View

log = logging.getLogger(__name__)

_POLL = 0.1  # seconds between two checks of the processes
_LOOK_AROUND = 1.0  # seconds between two checks of other launchers' jobs and of the stop file
_PATIENCE = 60.0  # seconds for a checkpoint after a time limit, before the job is killed


@dataclass(frozen=True)
class LauncherSettings:
    """The part ``hydra.launcher`` of a config.

    Attributes:
        jobs: How many jobs run at a time; ``auto``: one per GPU slot or, without GPUs, one per two
            processors.
        gpus: The ids of the GPUs to use; ``auto``: all of this machine.
        jobs_per_gpu: How many jobs share a GPU at a time.
        threads: Processor threads of a job; None: the processors divided by ``jobs``.
        time_limit: Seconds after which a job is stopped, to be resumed by the next launch; None for no
            limit.
        memory_limit: GiB of memory, of a job's main process only, above which it is ended; None for no
            limit.
    """

    jobs: int | str = "auto"
    gpus: Sequence[int | str] | str = "auto"
    jobs_per_gpu: int = 1
    threads: int | None = None
    time_limit: float | None = None
    memory_limit: float | None = None

    def __post_init__(self) -> None:
        check_whole("hydra.launcher", self, "jobs_per_gpu")
        if self.threads is not None:
            check_whole("hydra.launcher", self, "threads")
        if self.jobs not in (None, "auto"):
            check_whole("hydra.launcher", self, "jobs", instead="auto")
        if self.gpus != "auto":
            check_list("hydra.launcher.gpus", self.gpus, "[0,1]", instead="auto")
        check_above_0("hydra.launcher", self, "time_limit", "memory_limit")

    @property
    def gpu_ids(self) -> list[str]:
        """The ids of the GPUs to use, as in ``CUDA_VISIBLE_DEVICES``."""
        return visible_gpus() if isinstance(self.gpus, str) else [str(gpu) for gpu in self.gpus]

    @property
    def at_a_time(self) -> int:
        """How many jobs run at a time."""
        if isinstance(self.jobs, int):
            return self.jobs
        return len(self.gpu_ids) * self.jobs_per_gpu or max(1, cores() // 2)


@dataclass(frozen=True)
class Task:
    """A job to run.

    Attributes:
        id: The job's id in the ledger.
        job: The record that its process gets.
        retry: The time of a failure after which the job is to run again; another failure ends it. None for
            no retry.
        data: The checksum of the data as it is now: a result on other data does not count. None if unknown.
    """

    id: str
    job: Job
    retry: str | None = None
    data: str | None = None

    def is_over(self, entry: JobStatus) -> bool:
        """Whether nothing is left to run, ``entry`` being the job's present entry."""
        if entry.state == "failed":
            return str(entry.status.get("time")) != self.retry
        if entry.state in ("pruned", "unreadable"):
            return True
        own = self.data is None or trained_on(entry.folder, self.data)
        return entry.state == "done" and own


@dataclass
class _Running:
    task: Task
    process: JobProcess
    claim: Claim
    gpus: tuple[str, ...]
    before: Mapping[str, Any]  # its status until then
    began: float = field(default_factory=time.monotonic)
    reason: str = ""
    resumable: bool = False  # whether the launcher ended it so that the next one resumes it


class LocalLauncher:
    """Run tasks until each is done, failed or stopped, by this launcher or by another one.

    Args:
        ledger: The ledger of the jobs.
        settings: How many jobs run at a time, and on which resources.
        view: Displays the progress.
    """

    def __init__(self, ledger: Ledger, settings: LauncherSettings, view: View) -> None:
        self._ledger, self._settings, self._view = ledger, settings, view
        self._pool = GPUPool(settings.gpu_ids, settings.jobs_per_gpu)
        self._jobs = settings.at_a_time
        self._threads = settings.threads or max(1, cores() // self._jobs)
        self._running: list[_Running] = []
        self._stop: int | None = None

    def run(self, tasks: Sequence[Task]) -> list[JobStatus]:
        """Run the tasks; return their entries at the end, in the order of ``tasks``.

        Raises:
            ConfigError: A job needs more GPUs than the launcher has.
        """
        for task in tasks:
            self._gpus_for(task)
        waiting = {task.id: task for task in tasks}
        entries = [self._ledger.entry(job) for job in waiting]
        self._view.begin(self._ledger, entries, self._jobs, self._threads, self._pool.ids)
        with handling(STOPPING, self._on_signal), self._view:
            look_around = 0.0
            while waiting or self._running:
                self._end_those_over()
                if self._stop is None:
                    self._start_some(waiting)
                elif not self._running:
                    break
                if time.monotonic() > look_around:
                    look_around = time.monotonic() + _LOOK_AROUND
                    self._look_around()
                wait_for_any([each.process for each in self._running], _POLL)
        entries = [self._ledger.entry(task.id) for task in tasks]
        self._view.end(entries)
        if self._stop is not None:
            raise SystemExit(stop_code(self._stop))
        return entries

    def _start_some(self, waiting: dict[str, Task]) -> None:
        for task in list(waiting.values()):
            if len(self._running) >= self._jobs or self._stop is not None:
                return
            need = self._gpus_for(task)
            gpus = self._pool.take(need) if need else ()
            if gpus is None:
                continue
            claim = self._ledger.claim(task.id)
            started = claim is not None and self._start(task, claim, gpus, waiting)
            if not started:
                self._pool.give_back(gpus)

    def _start(
        self, task: Task, claim: Claim, gpus: tuple[str, ...], waiting: dict[str, Task]
    ) -> bool:
        """Start the task unless it is over; return whether it was started."""
        entry = self._ledger.entry(task.id)
        if task.is_over(entry):
            claim.give_back()
            del waiting[task.id]
            self._view.over(self._ledger.entry(task.id), ran=False)
            return False
        del waiting[task.id]
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if self._pool.ids else {}
        accelerator = task.job.config.get("accelerator", {})
        if accelerator.get("name") in ("ddp", "ddp_cpu", "fsdp") or len(gpus) > 1:
            process = start_anew(task.job, environment, self._threads)
        else:
            process = fork_warm(task.job, environment, self._threads, forked)
        claim.note(process.pid)
        self._running.append(_Running(task, process, claim, gpus, entry.status))
        if self._stop is not None:  # it came while the process started
            process.send(signal.SIGTERM)
        self._view.started(self._ledger.entry(task.id))
        return True

    def _end_those_over(self) -> None:
        for each in list(self._running):
            code = each.process.exit_code()
            if code is None:
                self._watch(each)
                continue
            each.process.close()
            self._running.remove(each)
            self._write_down(each, code)
            self._pool.give_back(each.gpus)
            each.claim.give_back()
            self._view.over(self._ledger.entry(each.task.id), ran=True)

    def _watch(self, each: _Running) -> None:
        """Enforce a job's limits on time and memory."""
        seconds, limit = time.monotonic() - each.began, self._settings.time_limit
        if limit is not None and seconds > limit:
            if not each.reason:
                each.reason = f"time limit of {limit:g} s; the same command resumes it"
                each.resumable = True
                each.process.send(signal.SIGTERM)
            elif seconds > limit + _PATIENCE:
                each.process.send(signal.SIGKILL)
        most = self._settings.memory_limit
        if most is not None and (used := _memory(each.process.pid)) > most:
            each.reason = f"used {used:.2f} GiB of memory, more than memory_limit={most:g}"
            each.resumable = False
            each.process.send(signal.SIGKILL)

    def _write_down(self, each: _Running, code: int) -> None:
        """Record how a job ended that could not record it itself, or that the launcher ended."""
        folder = self._ledger.folder(each.task.id)
        try:
            status = folder.read_status()
        except RunFolderError as error:
            folder.write_status("failed", error=str(error), last_lines=last_lines(folder.log))
            return
        # a process that was ended may leave the status of before, which says nothing of this attempt
        unsaid = code not in (0, 1) and status == each.before
        state = "running" if unsaid else status.get("state", "running")
        if each.resumable and state in ("stopped", "running"):
            folder.end_status("stopped", each.reason)
            return
        if state != "running" or (self._stop is not None and code == -signal.SIGTERM):
            return
        reason = each.reason or how_it_ended(code)
        folder.end_status("failed", reason, last_lines=last_lines(folder.log))

    def _look_around(self) -> None:
        """Check what other launchers have done, and whether the stop file exists."""
        if self._stop is None and self._ledger.stop.exists():
            self._ask_to_stop(signal.SIGTERM)
        self._view.refresh([each.task.id for each in self._running])

    def _ask_to_stop(self, number: int) -> None:
        self._stop = number
        for each in self._running:
            each.process.send(signal.SIGTERM)

    def _gpus_for(self, task: Task) -> int:
        need = gpus_of(task.job.config.get("accelerator", {}), len(self._pool.ids))
        if need > len(self._pool.ids):
            raise ConfigError(
                f"accelerator.devices={need}: the launcher has {len(self._pool.ids)} GPUs to hand out "
                f"({', '.join(self._pool.ids)})"
            )
        return need

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Let the jobs write their checkpoints and stop; at a second signal, kill them."""
        again = self._stop is not None
        if not again:
            self._view.say("stopping: jobs write their checkpoints; once more stops at once")
        self._ask_to_stop(number)
        if again:
            for each in self._running:
                each.process.send(signal.SIGKILL)


def last_lines(file: Path, count: int = 10) -> list[str]:
    """The last lines of a log file; [] if there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 8192))
            return stream.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []


def _memory(pid: int) -> float:
    """The GiB of memory that process ``pid`` holds; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 2**20
    return 0.0
