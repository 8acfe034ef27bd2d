"""All that a GPU has to show of cnnexp, in one table, in under eight minutes and without a network.

    python benchmarks/gpu.py --out FOLDER

runs from a checkout, with nothing installed but torch, lightning and what these bring; hydra-core,
omegaconf and the antlr4 runtime, which such a machine may lack, are taken from a folder of wheels
(docs/scaling-out.md says how to make it). Each part runs in a process of its own, which is ended at
its time limit, and hands over a row as soon as it is known: FOLDER/gpu.csv has all that was found,
what failed or had no time among it, and FOLDER/gpu.log what the parts printed.

    python benchmarks/gpu.py --table

measures nothing: it puts the table of the steps in benchmarks/results/gpu.csv into docs/results.md.

Exit codes: 0 every row is ok or needs what is not here, 1 a row is not, 2 the command cannot work.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_parts.columns import COLUMNS

ROOT = Path(__file__).resolve().parents[1]
WHOLE = 470  # seconds for all parts together


@dataclass(frozen=True)
class Part:
    """One part: a function of a module of gpu_parts, and the seconds after which it is ended."""

    name: str
    seconds: float
    module: str
    function: str = "run"
    needs_hydra: bool = False


# Stage after stage, in the order of their worth; the parts of a stage run at the same time, so what is
# timed has a stage of its own. The last stage gets what time is left.
STAGES: tuple[tuple[Part, ...], ...] = (
    (Part("facts", 45, "facts"),),
    (Part("steps", 130, "steps"),),
    (
        Part("proofs", 120, "proofs"),
        Part("resume", 120, "trainings", "run_resume", needs_hydra=True),
        Part("ddp", 90, "trainings", "run_ddp", needs_hydra=True),
        Part("fsdp", 90, "trainings", "run_fsdp", needs_hydra=True),
        Part("sweep", 120, "sweep", needs_hydra=True),
    ),
    (Part("accuracy", 50, "accuracy"),),
    (Part("private", 20, "private"),),
    (Part("compile", 90, "steps", "run_compiled"),),
    (Part("choices", 120, "choices", needs_hydra=True),),
)
PARTS = {part.name: part for stage in STAGES for part in stage}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for; the exit code."""
    options = _parser().parse_args(arguments)
    if options.part is not None:
        _be(PARTS[options.part], Path(options.rows), options.device)
        return 0
    if options.table:
        _publish()
        return 0
    chosen = list(PARTS) if options.parts is None else options.parts.split(",")
    for name in chosen:
        if name not in PARTS:
            print(f"gpu.py: --parts={name}: unknown; known: {', '.join(PARTS)}", file=sys.stderr)
            return 2
    if options.wheels is not None and not options.wheels.is_dir():
        print(f"gpu.py: --wheels={options.wheels}: is no folder", file=sys.stderr)
        return 2
    stages = [tuple(part for part in stage if part.name in chosen) for stage in STAGES]
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        environment = _environment(Path(place), options.wheels)
        table = Table(options.out / "gpu.csv", options.out / "gpu.log")
        _run(stages, table, options, environment, Path(place))
    print(f"{table.counts} in {options.out / 'gpu.csv'}")
    return 1 if table.counts.get("failed") or table.counts.get("killed") else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu.py", description="See its head.")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of gpu.csv and gpu.log")
    wheels = os.environ.get("CNNEXP_WHEELS")
    here = Path(__file__).with_name("wheels")
    default = Path(wheels) if wheels else here if here.is_dir() else None
    parser.add_argument("--wheels", type=Path, default=default, metavar="FOLDER",
                        help="default: $CNNEXP_WHEELS, else benchmarks/wheels")  # fmt: skip
    parser.add_argument("--parts", help="only these, comma-separated")
    parser.add_argument("--seconds", type=float, default=WHOLE, help=f"for all (default: {WHOLE})")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="auto (default): cuda where it is, else cpu with tiny sizes")  # fmt: skip
    parser.add_argument(
        "--table", action="store_true", help="of benchmarks/results/gpu.csv, into docs/"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)  # be this part
    parser.add_argument("--rows", help=argparse.SUPPRESS)  # and append its rows to this file
    return parser


def _publish() -> None:
    from gpu_parts.table import table
    from published import RESULTS, place, read_rows

    place("gpu", table(read_rows(RESULTS / "gpu.csv")))


class Table:
    """gpu.csv, written line by line, and gpu.log, part by part.

    Attributes:
        counts: Rows by their state.
    """

    def __init__(self, file: Path, log: Path) -> None:
        self._file, self._log, self._lock = file, log, threading.Lock()
        self.counts: dict[str, int] = {}
        with file.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerow(COLUMNS)
        log.write_bytes(b"")

    def add(self, row: Mapping[str, Any]) -> None:
        """One row more."""
        with self._lock, self._file.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, COLUMNS, lineterminator="\n").writerow(row)
            self.counts[row["state"]] = self.counts.get(row["state"], 0) + 1
            if row["state"] != "ok":
                words = (str(row.get(key, "")) for key in ("part", "what", "way", "state", "note"))
                print(": ".join(filter(None, words))[:300], flush=True)

    def keep_log(self, name: str, text: bytes) -> None:
        """What a part printed."""
        with self._lock, self._log.open("ab") as stream:
            stream.write(f"==== {name}\n".encode() + text + b"\n")


def _run(
    stages: Sequence[Sequence[Part]],
    table: Table,
    options: argparse.Namespace,
    environment: Mapping[str, str],
    place: Path,
) -> None:
    begun = time.monotonic()
    for stage in stages:
        left = options.seconds - (time.monotonic() - begun)
        threads = []
        for part in stage:
            if left < 5:
                why = f"no time is left of {options.seconds:g} s"
                table.add({"part": part.name, "what": "part", "state": "skipped", "note": why})
                continue
            limit = left if part in STAGES[-1] else min(left, part.seconds)
            rows = place / f"{part.name}.jsonl"
            command = [sys.executable, __file__, "--part", part.name, "--rows", str(rows)]
            command += ["--device", options.device]
            arguments = (part.name, command, rows, limit, table, environment)
            threads.append(threading.Thread(target=run_part, args=arguments, daemon=True))
            threads[-1].start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            for process in RUNNING:
                _kill(process)
            raise


RUNNING: list[subprocess.Popen[bytes]] = []


def run_part(
    name: str,
    command: Sequence[str],
    rows: Path,
    limit: float,
    table: Table,
    environment: Mapping[str, str],
) -> None:
    """Run ``command`` for at most ``limit`` seconds, and put the rows that it writes into ``table``."""
    start = time.monotonic()
    rows.touch()
    log = rows.with_suffix(".log")
    with log.open("wb") as output, rows.open(encoding="utf-8") as made:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=output, start_new_session=True
        )
        RUNNING.append(process)
        rest, over, late = "", False, False
        while not (over or late):
            time.sleep(0.05)
            over = process.poll() is not None
            late = time.monotonic() - start > limit
            *lines, rest = (rest + made.read()).split("\n")
            for line in lines:
                table.add(json.loads(line))
        _kill(process)  # with what it may have left running
        code = process.wait()
    printed = log.read_bytes()
    table.keep_log(name, printed)
    end = {"part": name, "what": "part", "seconds": round(time.monotonic() - start, 1)}
    if not over:
        end |= {"state": "killed", "note": f"was not done after its limit of {limit:g} s"}
    elif code:
        last = printed.decode("utf-8", "replace").strip().splitlines()[-1:]
        end |= {"state": "failed", "note": f"exit code {code}: {' '.join(last)}"}
    else:
        end |= {"state": "ok", "note": f"limit {limit:.0f} s"}
    table.add(end)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _environment(place: Path, wheels: Path | None) -> dict[str, str]:
    """That of the parts: the checkout's packages, those of the wheels that are missing, own caches."""
    paths = [str(ROOT / "src"), str(ROOT / "benchmarks")]
    if wheels is not None:
        paths.append(str(_unpacked(wheels, place / "wheels")))
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    environment["CNNEXP_CACHE"] = str(place / "choices")  # nothing is chosen for the user
    # compiled anew by each process, the packages take longer to import than many a part
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _unpacked(wheels: Path, folder: Path) -> Path:
    """The pure-Python wheels whose packages are not installed, unpacked."""
    folder.mkdir()
    for wheel in sorted(wheels.glob("*-none-any.whl")):
        try:
            importlib.metadata.version(wheel.name.partition("-")[0])
        except importlib.metadata.PackageNotFoundError:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    return folder


def _be(part: Part, file: Path, device: str) -> None:
    """Run ``part`` in this process."""
    import torch
    from gpu_parts.rows import Rows

    has_gpu = torch.cuda.is_available()
    chosen = device if device != "auto" else "cuda" if has_gpu else "cpu"
    rows = Rows(part.name, file, torch.device(chosen if has_gpu else "cpu"))
    if chosen == "cuda" and not has_gpu:
        rows.add("part", state="failed", note="--device=cuda: this machine has no usable GPU")
    elif part.needs_hydra and importlib.util.find_spec("hydra") is None:
        why = "hydra-core is neither installed nor among the wheels: see docs/scaling-out.md"
        rows.add("part", state="failed", note=why)
    else:
        getattr(importlib.import_module(f"gpu_parts.{part.module}"), part.function)(rows)


if __name__ == "__main__":
    sys.exit(main())
