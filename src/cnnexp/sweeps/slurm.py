"""Run jobs of a ledger on a SLURM cluster, submitted as arrays by submitit.

Each job claims itself in the ledger once it runs, trains, and writes its folder as anywhere else. SIGUSR1,
which SLURM sends ahead of the time limit or a preemption, lets it write a checkpoint and put itself
back into the queue; when it runs again it resumes. A job that left the queue without recording how it ended
is lost and counts as failed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from cnnexp.config.errors import ConfigError
from cnnexp.config.ranges import check_above_0, check_whole
from cnnexp.execution import log_to, run_job
from cnnexp.execution.processes import handling
from cnnexp.runs import process_rank
from cnnexp.runs.signals import STOPPING, stop_code
from cnnexp.sweeps.launcher import Task, last_lines
from cnnexp.sweeps.ledger import Claim, JobStatus, Ledger
from cnnexp.sweeps.view import View

_LONGEST_ARRAY = 1000  # SLURM's own MaxArraySize is 1001
_PATIENCE = 60.0  # seconds for a dead job's claim to become free on other machines
_LOST_AFTER = 2  # a job that is missing in this many checks of the queue is lost


@dataclass(frozen=True)
class SlurmSettings:
    """The part ``hydra.launcher`` of a config with ``hydra/launcher=slurm``.

    Attributes:
        partition, account, qos, constraint: As for sbatch; None leaves them to the cluster.
        timeout_min: Minutes of a job's time slice; the job is resumed in another one.
        signal_delay_s: How many seconds before its end a job is told to write its checkpoint.
        cpus_per_task: Processors of each process.
        gpus_per_node: For jobs on GPUs; ``auto``: ``accelerator.devices``.
        mem_gb: GiB of memory per node; None leaves it to the cluster.
        array_parallelism: How many jobs run at a time.
        setup: Shell commands before each job, such as ``module load``.
        additional_parameters: Further options of sbatch.
        poll_s: Seconds between two checks of the queue.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    timeout_min: int = 60
    signal_delay_s: int = 60
    cpus_per_task: int = 2
    gpus_per_node: int | str = "auto"
    mem_gb: float | None = None
    array_parallelism: int = 64
    setup: Sequence[str] = ()
    additional_parameters: Mapping[str, Any] = field(default_factory=dict)
    poll_s: float = 5.0

    def __post_init__(self) -> None:
        whole = ("timeout_min", "signal_delay_s", "cpus_per_task", "array_parallelism")
        check_whole("hydra.launcher", self, *whole)
        gpus = self.gpus_per_node
        if gpus != "auto" and not (type(gpus) is int and gpus >= 0):
            raise ConfigError(
                f"hydra.launcher.gpus_per_node={gpus}: must be auto or a whole number, at least 0"
            )
        check_above_0("hydra.launcher", self, "mem_gb", "poll_s")


@dataclass(frozen=True)
class InAllocation:
    """The callable that SLURM runs, once for each process of a job."""

    ledger: str
    task: Task

    def __call__(self) -> None:
        """Claim the job and run it; put it back into the queue if SLURM's signal stopped it."""
        ledger, here = Ledger(self.ledger), process_rank()
        first = here is None or here.rank == 0
        log_to(Path(self.task.job.folder) if first else None)
        claim = _claim(ledger, self.task) if first else None
        if first and claim is None:
            return
        threading.Thread(target=_watch_for_stop, args=(ledger,), daemon=True).start()
        try:
            run_job(self.task.job)
        except SystemExit:
            if first and _was_told_by_slurm(ledger, self.task.id):
                _put_back()
            raise
        finally:
            if claim is not None:
                claim.give_back()

    def checkpoint(self) -> Any:
        """Resubmit this callable; submitit calls it when the signal comes before the training has begun."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _claim(ledger: Ledger, task: Task) -> Claim | None:
    """Claim the job; None if it is over, or another launcher has it."""
    deadline = time.monotonic() + _PATIENCE
    while (claim := ledger.claim(task.id)) is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(1)
    entry = ledger.entry(task.id)
    if task.is_over(entry):
        claim.give_back()
        return None
    claim.note(os.getpid())
    return claim


def _watch_for_stop(ledger: Ledger) -> None:
    while not ledger.stop.exists():
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _was_told_by_slurm(ledger: Ledger, job: str) -> bool:
    status = ledger.entry(job).status
    return status.get("state") == "stopped" and "SIGUSR1" in str(status.get("error"))


def _put_back() -> None:
    number = os.environ["SLURM_JOB_ID"]
    subprocess.run(["scontrol", "requeue", number], check=False, timeout=60)


class SlurmLauncher:
    """Submit tasks, and supervise them until their ends.

    Args:
        ledger: The ledger of the jobs, in a folder that the nodes share.
        settings: The resources to request from the cluster.
        view: Displays the progress.

    Raises:
        ConfigError: submitit is not installed, or this machine has no SLURM.
    """

    def __init__(self, ledger: Ledger, settings: SlurmSettings, view: View) -> None:
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # read when submitit is imported
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                'hydra/launcher=slurm needs submitit: pip install "cnnexp[slurm]"'
            ) from error
        if shutil.which("sbatch") is None:
            raise ConfigError(
                "hydra/launcher=slurm: there is no sbatch here; start it on a login node of the cluster, or "
                "take hydra/launcher=local"
            )
        self._make = submitit.SlurmExecutor
        self._ledger, self._settings, self._view = ledger, settings, view
        self._numbers: dict[str, str] = {}
        self._stop: int | None = None

    def run(self, tasks: Sequence[Task]) -> list[JobStatus]:
        """Run the tasks; return their entries at the end, in the order of ``tasks``.

        Raises:
            ConfigError: The cluster refuses the jobs.
            SystemExit: A signal stopped the launcher, and with it the jobs.
        """
        entries = [self._ledger.entry(task.id) for task in tasks]
        waiting = {task.id: task for task in tasks}
        at_once = min(len(tasks), self._settings.array_parallelism)
        self._view.begin(self._ledger, entries, at_once, self._settings.cpus_per_task, ())
        with handling(STOPPING, self._on_signal), self._view:
            for task, entry in zip(tasks, entries, strict=True):
                if task.is_over(entry):
                    del waiting[task.id]
                    self._view.over(entry, ran=False)
            self._submit(list(waiting.values()))
            self._see_through(waiting)
        entries = [self._ledger.entry(task.id) for task in tasks]
        self._view.end(entries)
        if self._stop is not None:
            raise SystemExit(stop_code(self._stop))
        return entries

    def _submit(self, tasks: Sequence[Task]) -> None:
        """Submit one array for all jobs that need the same nodes, processes and GPUs."""
        shapes: dict[tuple[int, int, int], list[Task]] = {}
        for task in tasks:
            shapes.setdefault(_shape(task.job.config, self._settings), []).append(task)
        for (nodes, processes, gpus), alike in shapes.items():
            executor = self._make(folder=self._ledger.path / "slurm")
            executor.update_parameters(**self._parameters(nodes, processes, gpus))
            for start in range(0, len(alike), _LONGEST_ARRAY):
                part = alike[start : start + _LONGEST_ARRAY]
                try:
                    with executor.batch():
                        jobs = [
                            executor.submit(InAllocation(str(self._ledger.path.resolve()), task))
                            for task in part
                        ]
                except Exception as error:  # submitit's errors contain sbatch's own message
                    raise ConfigError(
                        f"SLURM refuses the jobs: {' '.join(str(error).split())}"
                    ) from error
                for task, job in zip(part, jobs, strict=True):
                    self._numbers[task.id] = str(job.job_id)
                first, last = jobs[0].job_id, jobs[-1].job_id
                self._view.say(f"submitted {len(part)} jobs to SLURM: {first} to {last}")

    def _parameters(self, nodes: int, processes: int, gpus: int) -> dict[str, Any]:
        own = self._settings
        same = ("partition", "account", "qos", "constraint")
        same += ("cpus_per_task", "array_parallelism", "signal_delay_s")
        parameters = {
            **{name: getattr(own, name) for name in same},
            "job_name": self._ledger.path.name,
            "time": own.timeout_min,
            "nodes": nodes,
            "ntasks_per_node": processes,
            "setup": list(own.setup),
            "additional_parameters": {"requeue": True, **own.additional_parameters},
            "mem": None if own.mem_gb is None else f"{own.mem_gb:g}GB",
            "gpus_per_node": gpus or None,
        }
        return {name: value for name, value in parameters.items() if value is not None}

    def _see_through(self, waiting: dict[str, Task]) -> None:
        missing: dict[str, int] = {}
        seen: set[str] = set()
        while waiting:
            queue = _queue()
            for job in list(waiting):
                entry = self._ledger.entry(job)
                if entry.state == "running" and job not in seen:
                    seen.add(job)
                    self._view.started(entry)
                if queue is None or self._numbers[job] in queue:
                    missing[job] = 0
                    continue
                missing[job] = missing.get(job, 0) + 1
                if (
                    entry.state in ("done", "failed", "pruned", "unreadable")
                    or missing[job] >= _LOST_AFTER
                ):
                    del waiting[job]
                    self._view.over(self._write_down(entry), ran=True)
            self._view.refresh([job for job in waiting if job in seen])
            if self._stop is None and self._ledger.stop.exists():
                self._ask_to_stop(signal.SIGTERM)
            if waiting:
                time.sleep(self._settings.poll_s)

    def _write_down(self, entry: JobStatus) -> JobStatus:
        """Record how a job ended that could not record it itself; return its entry."""
        lost = entry.state in ("running", "interrupted", "waiting")
        if not lost or (self._stop is not None and entry.state == "waiting"):
            return entry
        number = self._numbers[entry.id]
        entry.folder.end_status(
            "failed",
            f"SLURM's job {number} is gone from the queue: killed, out of memory, or its node is lost",
            last_lines=last_lines(entry.folder.log),
        )
        return self._ledger.entry(entry.id)

    def _ask_to_stop(self, number: int) -> None:
        self._stop = number
        ids = list(self._numbers.values())
        if ids:
            for arguments in (["--state=PENDING"], ["--signal=TERM"]):
                subprocess.run(
                    ["scancel", *arguments, *ids], check=False, capture_output=True, timeout=60
                )

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Let the jobs write their checkpoints and stop; at a second signal, cancel them."""
        if self._stop is None:
            self._view.say("stopping: running jobs write their checkpoints, the others go")
            self._ask_to_stop(number)
        else:
            subprocess.run(["scancel", *self._numbers.values()], check=False, timeout=60)


def _shape(config: Mapping[str, Any], settings: SlurmSettings) -> tuple[int, int, int]:
    """The resources that a job needs: (nodes, processes per node, GPUs per node)."""
    accelerator = config.get("accelerator", {})
    name, devices = accelerator.get("name"), accelerator.get("devices", 1)
    gpus = settings.gpus_per_node
    if devices == "auto":
        if not isinstance(gpus, int):
            raise ConfigError(
                f"accelerator={name}: set accelerator.devices to the GPUs of a node, or "
                f"hydra.launcher.gpus_per_node; on a cluster this machine's do not say"
            )
        devices = gpus
    several = name in ("ddp", "ddp_cpu", "fsdp")
    on_gpu = name in ("gpu", "ddp", "fsdp") or isinstance(gpus, int)
    if name in ("cpu", "ddp_cpu"):
        on_gpu = False
    wanted = gpus if isinstance(gpus, int) else devices
    return accelerator.get("num_nodes", 1), devices if several else 1, wanted if on_gpu else 0


def _queue() -> set[str] | None:
    """The numbers of this user's jobs that SLURM still has, as 12 or 12_3; None if it does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(done.stdout.split()) if done.returncode == 0 else None
