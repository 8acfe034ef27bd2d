"""``python -m tests.sweeps.crash --jobs 60 --kills 10``: kill launchers and jobs of a sweep, and compare.

One sweep is left alone. Of another one of the same jobs the launcher, or one of the jobs that run, is
killed with SIGKILL at random moments; the same command continues until all are done. Both must have the
same jobs, each trained to its end once, with the same bits: weights, figures, curves.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import kill
from pathlib import Path

import torch

from cnnexp.speed.result import conditions
from cnnexp.sweeps import Ledger
from tests.training.resumable import assert_same_run

COMMAND = (
    *("data=digits", "data.train_size=600", "model.channels=[4,8]", "backward=direct"),
    *("regularization=[random_shift,dropout,ema]", "scheduler=onecycle", "accelerator=cpu"),
    *("checkpoint.every_n_steps=5", "hydra.launcher.jobs=2", "hydra.launcher.threads=1"),
)


@dataclass
class Report:
    """What a run of this script found."""

    jobs: int
    launchers_killed: int = 0
    jobs_killed: int = 0
    launches: int = 0
    done_once: int = 0
    same_bits: int = 0


def _command(folder: Path, jobs: int, epochs: int) -> list[str]:
    return [
        *(sys.executable, "-m", "cnnexp.train", "-m", *COMMAND, f"output_dir={folder}"),
        *("sweep.name=s", "sweep.retry=failed", f"seed=range({jobs})"),
        f"trainer.max_epochs={epochs}",
    ]


def _launch(folder: Path, jobs: int, epochs: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        _command(folder, jobs, epochs), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )


def _jobs_running(ledger: Ledger) -> dict[str, int]:
    """The process of each job that runs."""
    return {
        entry.id: int((ledger.path / entry.id / "claim").read_text().split()[2])
        for entry in ledger.entries()
        if entry.state == "running"
    }


def _disturb(
    ledger: Ledger, launcher: subprocess.Popen[bytes], dice: random.Random, report: Report
) -> set[str]:
    """Kill something once jobs run, if anything is left to; the jobs that it may have ended."""
    while launcher.poll() is None and not _jobs_running(ledger):
        time.sleep(0.05)
    time.sleep(dice.uniform(0, 3))
    if launcher.poll() is not None:
        return set()
    running = _jobs_running(ledger)
    if dice.random() < 0.5 or not running:
        launcher.kill()
        report.launchers_killed += 1
    else:
        job = dice.choice(list(running))
        kill(running[job], signal.SIGKILL)
        report.jobs_killed += 1
        return {job}
    return set(running)


def compare(folder: Path, jobs: int, kills: int, seed: int, epochs: int = 4) -> Report:
    """Run both sweeps below ``folder``; raises AssertionError where they differ."""
    report, dice = Report(jobs), random.Random(seed)
    alone, other = (Ledger(folder / name / "sweeps" / "s") for name in ("alone", "killed"))
    assert _launch(folder / "alone", jobs, epochs).wait() == 0
    struck: set[str] = set()
    while True:
        report.launches += 1
        launcher = _launch(folder / "killed", jobs, epochs)
        while launcher.poll() is None and report.launchers_killed + report.jobs_killed < kills:
            struck |= _disturb(other, launcher, dice, report)
        if launcher.wait() == 0:
            break
        assert report.launches <= 2 * kills + 2
    entries = list(other.entries())
    assert len(entries) == jobs
    assert {e.id for e in entries} == {e.id for e in alone.entries()}
    for entry in entries:
        assert entry.state == "done"
        ends = entry.folder.log.read_text(encoding="utf-8").count("run folder ")
        # a job that is killed when it is done, and has not said so yet, is not done again
        times = (0, 1) if entry.id in struck else (1,)
        assert ends in times, f"{entry.folder} was trained to its end {ends} times"
        report.done_once += 1
        assert_same_run(entry.folder, alone.folder(entry.id))
        report.same_bits += 1
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("outputs/crash"))
    parser.add_argument("--csv", type=Path, help="write the result to this file")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    report = asdict(compare(given.folder, given.jobs, given.kills, given.seed))
    report["seconds"] = round(time.monotonic() - began)
    print(json.dumps(report))
    if given.csv is not None:
        row = {**report, **conditions(torch.device("cpu"))}
        with given.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(row))
            writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
