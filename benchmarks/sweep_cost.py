"""What a job costs in a sweep beyond what the run itself does, and whether the launcher's memory grows.

    python benchmarks/sweep_cost.py --jobs 1000 --csv benchmarks/results/sweep_cost.csv

The same dry jobs (``trainer.fast_dev_run``: one step, one validation batch, one test batch) run twice, one
at a time: by ``-m``, everything included from the command to its end, and in a loop within one process
that has done some before. A job's seconds from its launch, when it has been claimed, to its end, less those
in the loop, are what launching it costs: the fork, and what a new process has to do that one which has
done other jobs need not. Composing and checking all jobs, before the first starts, is counted apart. The
ledger is timed alone as well: enter, read, claim and give back a job.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cnnexp.config import Composer, data, plain_config
from cnnexp.execution import Job, run_job
from cnnexp.speed.result import conditions
from cnnexp.sweeps import Ledger

DRY = (
    *("data=digits", "model=lenet5", "backward=direct", "accelerator=cpu", "logger=csv"),
    "+trainer.fast_dev_run=true",
)


def memory(pid: int) -> float:
    """MiB that the process holds."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def sweep(folder: Path, jobs: int) -> tuple[float, float, list[tuple[int, float]]]:
    """Seconds of the whole command and of its checks, and (jobs over, MiB of the launcher) at times."""
    command = [sys.executable, "-m", "cnnexp.train", "-m", *DRY, f"seed=range({jobs})"]
    options = [f"output_dir={folder}", "sweep.name=s"]
    options += ["hydra.launcher.jobs=1", "hydra.launcher.threads=1"]
    start, checked, seen = time.perf_counter(), 0.0, list[tuple[int, float]]()
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            checked = checked or time.perf_counter() - start if "  runs  " in line else checked
            if "  done  " in line:
                over = int(line.rpartition("(")[2].partition("/")[0])
                if over % max(1, jobs // 20) == 0:
                    seen.append((over, memory(process.pid)))
    if process.returncode:
        raise SystemExit(f"the sweep ended with exit code {process.returncode}")
    return time.perf_counter() - start, checked, seen


def launched(folder: Path) -> float:
    """Median seconds of a job from when it was claimed to its end."""
    seconds = [
        (file.parent / "status.json").stat().st_mtime - file.stat().st_mtime
        for file in folder.glob("sweeps/s/*/claim")
    ]
    return statistics.median(seconds)


def loop(folder: Path, jobs: int, warm: int = 5) -> float:
    """Median seconds of a job within this process."""
    torch.set_num_threads(1)
    seconds = []
    for seed in range(warm + jobs):
        config = plain_config(Composer("train").compose([*DRY, f"seed={seed}"]))
        path = folder / str(seed)
        path.mkdir(parents=True)
        data._once.cache_clear()  # reading its data is part of what a run does
        start = time.perf_counter()
        run_job(Job(config, str(path)))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm:])


def ledger(folder: Path, jobs: int) -> float:
    """Median seconds of a job in the ledger."""
    made, seconds = Ledger(folder), []
    config = plain_config(Composer("train").compose([*DRY]))
    for seed in range(jobs):
        start = time.perf_counter()
        job = made.add({**config, "seed": seed}, [f"seed={seed}"])
        claim = made.claim(job)
        assert claim is not None
        made.entry(job)
        claim.note(1)
        claim.give_back()
        made.entry(job)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=50, help="jobs within one process")
    parser.add_argument("--csv", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        whole, checked, seen = sweep(folder / "sweep", options.jobs)
        each = launched(folder / "sweep")
        own = loop(folder / "loop", options.loop)
        book = ledger(folder / "ledger", options.jobs)
    early, late = seen[len(seen) // 4], seen[-1]
    row: dict[str, Any] = {
        "jobs": options.jobs,
        "seconds_sweep": round(whole, 1),
        "seconds_check_a_job": round(checked / options.jobs, 3),
        "seconds_a_job": round(each, 3),
        "seconds_a_job_alone": round(own, 3),
        "seconds_launch": round(each - own, 3),
        "milliseconds_ledger": round(1e3 * book, 2),
        "mib_after": f"{early[0]}: {early[1]:.1f}, {late[0]}: {late[1]:.1f}",
    } | conditions(torch.device("cpu"))
    for name, value in row.items():
        print(f"{name:22} {value}")
    if options.csv is not None:
        with options.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
