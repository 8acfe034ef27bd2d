"""Two jobs of a sweep at once on one GPU, by the launcher; then the commands that use a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu_parts.rows import Rows, whole_device
from gpu_parts.trainings import overrides_for

__all__ = ["run"]


def run(rows: Rows) -> None:
    """Train seeds 0 and 1 at the same time, then test, predict, explain and export the first."""
    with tempfile.TemporaryDirectory() as place, whole_device(rows.device) as peak:
        with rows.trying("two jobs at once", "hydra.launcher.jobs_per_gpu=2") as row:
            start = time.time()
            _command(
                place, "train", "-m", *overrides_for(rows), "backward=fused", "seed=0,1",
                "sweep.name=two", "hydra.launcher.jobs=2", "hydra.launcher.jobs_per_gpu=2",
            )  # fmt: skip
            row |= {"value": time.time() - start, "unit": "s"}
            row |= _overlap(Path(place) / "outputs" / "sweeps" / "two")
            row["peak_mb"] = peak()
        if not rows.on_gpu:
            return  # the test suite runs these commands
        runs = sorted((Path(place) / "outputs" / "sweeps" / "two").glob("*/result.json"))
        for name in ("evaluate", "explain", "export"):
            with rows.trying(f"cnnexp.{name}", "of a run trained on the GPU") as row:
                if not runs:
                    raise RuntimeError("there is no run")
                row["note"] = _command(place, name, f"run={runs[0].parent}")


def _command(place: str, name: str, *arguments: str) -> str:
    """The last line that ``python -m cnnexp.<name>`` prints.

    Raises:
        RuntimeError: It fails; with the last lines.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"cnnexp.{name}", *arguments],
        cwd=place,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines() or [""]
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {' | '.join(lines[-6:])}")
    return lines[-1]


def _overlap(folder: Path) -> dict[str, object]:
    """Whether both jobs are done, and for how long they ran side by side."""
    jobs = [file.parent for file in sorted(folder.glob("*/status.json"))]
    states = [json.loads((job / "status.json").read_text(encoding="utf-8")) for job in jobs]
    if [state["state"] for state in states] != ["done", "done"]:
        raise RuntimeError(f"the jobs are {states}")
    begun = [(job / "provenance.json").stat().st_mtime for job in jobs]
    over = [(job / "status.json").stat().st_mtime for job in jobs]
    together = min(over) - max(begun)
    note = f"side by side for {together:.1f} s"
    return {"note": note} if together > 0 else {"note": note, "state": "failed"}
