"""Kill trainings at random, resume them, and compare what comes out with a training that nothing interrupts.

    python -m tests.crash --runs 200 --csv benchmarks/results/crashes.csv

Each run is killed (SIGKILL) up to three times: at a random moment, in a step, in a validation, within the
write of a checkpoint, before or after a file gets its name. Every process is forked from this one,
which has imported torch and computed nothing. Exit code 1 if any run ends otherwise.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from cnnexp.runs import RunFolder, files
from cnnexp.training import read_checkpoint, run_training
from cnnexp.training.resume import files as checkpoints
from tests.training.resumable import EPOCHS, STEPS, assert_same_run, new_folder, small_job

LOADABLE = ("last.ckpt", "previous.ckpt", "best.ckpt")


class _Die(Callback):
    """Kill this process in a hook, the n-th time that it is called."""

    def __init__(self, hook: str, nth: int) -> None:
        setattr(self, hook, _nth(lambda *a, **o: None, nth, before=True))


def _nth(function: Callable[..., Any], nth: int, *, before: bool) -> Callable[..., Any]:
    """``function``, but its n-th call kills this process, before it or after."""
    left = [nth]

    def dying(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return dying


def _arm(point: str, nth: int) -> list[Callback]:
    """Let this process die at ``point``; the callbacks that see to it, if any."""
    hooks = {"step": "on_train_batch_end", "validation": "on_validation_batch_start"}
    if point in hooks:
        return [_Die(hooks[point], nth)]
    if point == "write":  # the checkpoint is written, its checksum is not
        checkpoints._digest = _nth(checkpoints._digest, nth, before=True)
    elif point == "before rename":
        files.os.replace = _nth(os.replace, nth, before=True)
    elif point == "after rename":
        files.os.replace = _nth(os.replace, nth, before=False)
    return []


POINTS = {
    "step": EPOCHS * STEPS,
    "validation": 5,
    "write": 8,
    "before rename": 16,
    "after rename": 16,
}


def _in_child(folder: RunFolder, point: str = "", nth: int = 0, *, kill_after: float = 0.0) -> int:
    """Train or resume in a forked process; its exit status as ``os.waitpid`` has it."""
    child = os.fork()
    if child == 0:
        try:
            logging.disable()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            torch.set_num_threads(1)
            job = small_job(*_arm(point, nth))
            run_training(job, folder, resume=folder.status.exists())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if kill_after:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def crash(folder: RunFolder, chance: random.Random, seconds: float) -> list[str]:
    """Kill the run in ``folder`` up to three times, then let it end; where it was killed."""
    killed: list[str] = []
    for _ in range(chance.randint(1, 3)):
        point = chance.choice(["any moment", *POINTS])
        if point == "any moment":
            delay = chance.uniform(0.05, seconds)
            status, where = _in_child(folder, kill_after=delay), f"after {delay:.2f} s"
        else:
            nth = chance.randint(1, POINTS[point])
            status, where = _in_child(folder, point, nth), f"{point} {nth}"
        if os.WIFSIGNALED(status):
            killed.append(where)
        elif os.WEXITSTATUS(status):
            raise AssertionError(f"the run failed, killed at {killed}")
        for name in LOADABLE:
            if (folder.checkpoints / name).exists():
                read_checkpoint(folder.checkpoints / name)
        if folder.read_status().get("state") == "done":
            return killed
    if _in_child(folder) != 0:
        raise AssertionError(f"the resumed run failed, killed at {killed}")
    return killed


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="kill trainings at random and resume them")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="write a row a run")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = new_folder(Path(scratch) / "whole")
        start = time.monotonic()
        if _in_child(whole) != 0:
            return 1
        seconds = time.monotonic() - start
        for number in range(options.runs):
            folder = new_folder(Path(scratch) / str(number))
            killed, outcome = [], "same bits"
            try:
                killed = crash(folder, chance, seconds)
                assert_same_run(folder, whole)
                left = [f.name for f in folder.path.rglob("*.part")]
                assert not left, f"left behind: {left}"
            except Exception as error:
                outcome = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            rows.append({"run": number, "kills": len(killed), "where": "; ".join(killed)})
            rows[-1]["outcome"] = outcome
            print(
                f"{number + 1}/{options.runs}  {outcome}  killed: {'; '.join(killed)}", flush=True
            )
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    same = sum(row["outcome"] == "same bits" for row in rows)
    print(f"{same} of {len(rows)} runs the same to the bit, {sum(r['kills'] for r in rows)} kills")
    return 0 if same == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
