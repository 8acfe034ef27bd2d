"""Whole programs side by side: from the shell to a trained network, cnnexp and what people use instead.

    python benchmarks/peers.py article   the article's network by eight programs      some 25 minutes
    python benchmarks/peers.py recipes   seconds to 99 %, by published recipes        some 30 minutes
    python benchmarks/peers.py … --only "cnnexp; torch, NCHW"   some of them, nothing written
    python benchmarks/peers.py … --csv   only the table, from the committed file

On a quiet machine with the official MNIST files ($CNNEXP_DATA or data/). The programs are those of
benchmarks/peers, written after the settings that their authors publish; each starts in a process of its
own, in interleaved rounds, and says by a line when its first step, an epoch or the test is done: the clock
is that of this process. ``make peers`` installs TensorFlow and JAX into an environment of their own,
.venv-peers; without it their rows are left out. Every program trains on 55,000 images and validates on
5,000 after each epoch, cnnexp with all that it does in a run (checkpoints, TensorBoard, diagnostics).
A processor without instructions for bfloat16 leaves its rows out: they would take ten times as long there.

Writes benchmarks/results/peers-<study>.csv, a row a program and round, and the table between
``<!-- peers-<study> -->`` and ``<!-- end -->`` of README.md and docs/.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
from published import RESULTS, ROOT, place, read_rows, write_rows

from cnnexp.machine import processor_name
from cnnexp.tuning import multiplies_bfloat16

PROGRAMS = ROOT / "benchmarks" / "peers"
OF_PEERS = ROOT / ".venv-peers" / "bin" / "python"


class Program(NamedTuple):
    """A program that is timed.

    Attributes:
        name: As the tables call it.
        file: Its file in benchmarks/peers; empty for cnnexp.
        way: Its ``--way``, or for cnnexp its overrides.
        packages: The packages whose versions are told.
    """

    name: str
    file: str
    way: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("torch",)


class Study(NamedTuple):
    """Programs that solve the same task."""

    programs: tuple[Program, ...]
    epochs: Mapping[str, int]
    rounds: int


TENSORFLOW, JAX = ("keras", "tensorflow_cpu"), ("jax", "flax", "optax")
PLAIN = "plain_torch.py"
STUDIES = {
    "article": Study(
        (
            Program("cnnexp", "", ("experiment=article",)),
            Program(
                "cnnexp, bfloat16", "", ("experiment=article", "accelerator.precision=bf16-mixed")
            ),
            Program("torch, channels_last", PLAIN, ("channels_last",)),
            Program("torch, bfloat16", PLAIN, ("bfloat16",)),
            Program("torch, NCHW", PLAIN, ("NCHW",)),
            Program("torch.compile", PLAIN, ("compile",)),
            Program("Lightning, torchvision", "plain_lightning.py", (), ("torch", "lightning")),
            Program("Keras, TensorFlow", "keras_tensorflow.py", (), TENSORFLOW),
            Program("JAX, Flax", "jax_flax.py", (), JAX),
        ),
        {},
        3,
    ),
    "recipes": Study(
        (
            Program("one epoch, channels_last", "one_epoch.py", ("channels_last",)),
            Program("one epoch, NCHW", "one_epoch.py", ("NCHW",)),
            Program("one epoch, bfloat16", "one_epoch.py", ("bfloat16",)),
            Program("PyTorch's example", "pytorch_example.py"),
        ),
        {"one_epoch.py": 1, "pytorch_example.py": 14},
        3,
    ),
}
EPOCHS = 3  # the first one compiles and warms up; two more
FIGURES = (
    *("start_up", "first_epoch", "later_epochs", "trained", "total"),
    *("val_acc", "test_acc", "peak_mb"),
)
Row = Mapping[str, str]


def command(program: Program, data: Path, epochs: int, seed: int, output: str) -> list[str]:
    """The command line of ``program``."""
    if not program.file:
        return [
            *(sys.executable, "-m", "cnnexp.train", *program.way, f"trainer.max_epochs={epochs}"),
            *(f"seed={seed}", f"output_dir={output}", f"data.root={data}", "data.fallback=error"),
            *("+callbacks.lines._target_=ours.Lines", "allow_targets=[ours.]"),
        ]
    python = sys.executable if "torch" in program.packages else str(OF_PEERS)
    way = [f"--way={way}" for way in program.way]
    settings = [f"--data={data}", f"--epochs={epochs}", f"--seed={seed}", *way]
    return [python, str(PROGRAMS / program.file), *settings]


def timed(program: Program, data: Path, epochs: int, seed: int) -> dict[str, float]:
    """The figures of one run, in seconds and MB.

    Raises:
        RuntimeError: The program failed; its last lines are told.
    """
    with tempfile.TemporaryDirectory() as output, tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command(program, data, epochs, seed, output),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=output,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{PROGRAMS}"},
        )
        assert process.stdout is not None
        with process.stdout as lines:
            events = [(time.perf_counter() - begin, line.split()) for line in lines]
        _, status, usage = os.wait4(process.pid, 0)
        total = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{program.name} failed:\n{errors.read()[-2000:]}")
    return figures(events, total) | {"peak_mb": usage.ru_maxrss / 1024}


def figures(events: Sequence[tuple[float, Sequence[str]]], total: float) -> dict[str, float]:
    """What the lines of a program say; ``events`` are its lines in words, each with its second."""
    at: dict[str, float] = {}
    ends: list[float] = []
    for second, words in events:
        if words[:2] == ["first", "step"]:
            at["start_up"] = second
        elif words[:1] == ["epoch"] and len(words) == 3 and "/" not in words[1]:
            ends.append(second)
            at["val_acc"] = float(words[2])
        elif words[:1] == ["trained"]:
            at["trained"] = float(words[1])
        elif words[:1] == ["test"] and len(words) == 2:
            at["test_acc"] = float(words[1])
    at["first_epoch"] = ends[0] - at["start_up"]
    if len(ends) > 1:
        at["later_epochs"] = (ends[-1] - ends[0]) / (len(ends) - 1)
    return {**at, "total": total}


def measure(
    study: Study, programs: Sequence[Program], data: Path, rounds: int, file: Path | None
) -> list[Row]:
    """A row a program and round; a line is shown for each, and after each round all are in ``file``."""
    rows: list[Row] = []
    for round_ in range(1, rounds + 1):
        for program in programs:
            found = timed(program, data, study.epochs.get(program.file, EPOCHS), round_)
            rows.append(
                {
                    "program": program.name,
                    "round": str(round_),
                    **{key: f"{found[key]:.4f}" if key in found else "" for key in FIGURES},
                    "versions": versions(program),
                    **conditions(),
                }
            )
            shown = "  ".join(f"{key} {found[key]:.3f}" for key in FIGURES if key in found)
            print(f"round {round_}  {program.name}: {shown}", flush=True)
        if file is not None:
            write_rows(file, rows)
    return rows


def versions(program: Program) -> str:
    """The packages of a program as its interpreter has them."""
    python = sys.executable if "torch" in program.packages else str(OF_PEERS)
    asked = (
        "import importlib.metadata as m, sys; "
        "print(*(f'{name} {m.version(name)}' for name in sys.argv[1:]), sep=', ')"
    )
    answer = subprocess.run(
        [python, "-c", asked, *program.packages], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


def conditions() -> dict[str, str]:
    """When and where."""
    return {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
    }


def read(name: str) -> list[dict[str, str]]:
    """The rows of the committed file; none where there is no such file."""
    return read_rows(RESULTS / f"peers-{name}.csv")


def table(name: str, rows: Sequence[Row]) -> str:
    """The Markdown table: a program a row, the median of its rounds and their range."""
    if not rows:
        return f"Not measured yet: `python benchmarks/peers.py {name}`."
    lines = [
        "| program | start-up, s | first epoch, s | later epochs, s | trained, s | whole program, s | "
        f"/ {rows[0]['program']} | test accuracy | peak memory, MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    by_program: dict[str, list[Row]] = {}
    for row in rows:
        by_program.setdefault(row["program"], []).append(row)
    base = _values(next(iter(by_program.values())), "total")
    for program, own in by_program.items():
        times = [
            _range(_values(own, key))
            for key in ("start_up", "first_epoch", "later_epochs", "trained", "total")
        ]
        ratio = statistics.median(_values(own, "total")) / statistics.median(base)
        accuracy = _range([100 * value for value in _values(own, "test_acc")], 2)
        memory = f"{statistics.median(_values(own, 'peak_mb')):,.0f}"
        lines.append(f"| {program} | {' | '.join(times)} | {ratio:.2f} | {accuracy} % | {memory} |")
    first, last = rows[0], rows[-1]
    told = dict.fromkeys(part for row in rows for part in row["versions"].split(", "))
    return "\n".join(
        [
            *lines,
            "",
            f"Made by `python benchmarks/peers.py {name}`: median (least–greatest) of {last['round']} "
            f"interleaved rounds; {first['date']}; {first['processor']}, {first['cores']} cores; "
            f"Python {first['python']}, {', '.join(told)}.",
        ]
    )


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [float(row[key]) for row in rows if row[key]]


def _range(values: Sequence[float], digits: int = 1) -> str:
    if not values:
        return "–"
    middle = f"{statistics.median(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--rounds", type=int, help="of all programs")
    parser.add_argument(
        "--only", help="these programs, separated by semicolons; nothing is written"
    )
    parser.add_argument(
        "--csv", action="store_true", help="only the table, from the committed file"
    )
    options = parser.parse_args()
    study = STUDIES[options.study]
    if not options.csv:
        programs = _chosen(parser, study, options.only)
        data = Path(os.environ.get("CNNEXP_DATA", ROOT / "data")).resolve()
        if not (data / "MNIST" / "raw").is_dir():
            parser.error(f"{data} has no MNIST/raw: set CNNEXP_DATA to the folder that has it")
        file = None if options.only else RESULTS / f"peers-{options.study}.csv"
        rows = measure(study, programs, data, options.rounds or study.rounds, file)
        if options.only:
            print(table(options.study, rows))
            return
    made = table(options.study, read(options.study))
    place(f"peers-{options.study}", made)
    print(made)


def _chosen(parser: argparse.ArgumentParser, study: Study, only: str | None) -> list[Program]:
    known = {program.name: program for program in study.programs}
    names = [name.strip() for name in only.split(";")] if only else list(known)
    for name in names:
        if name not in known:
            parser.error(f"no program {name!r}; there are {'; '.join(known)}")
    found = [known[name] for name in names]
    if not OF_PEERS.exists():
        left = [program.name for program in found if "torch" not in program.packages]
        if left:
            print(f"left out, since `make peers` has not run: {', '.join(left)}", flush=True)
        found = [program for program in found if "torch" in program.packages]
    if only is None and not multiplies_bfloat16(torch.device("cpu")):
        low = [program.name for program in found if "bfloat16" in program.name]
        if low:
            print(f"left out, since this processor has no bfloat16: {', '.join(low)}", flush=True)
        found = [program for program in found if program.name not in low]
    return found


if __name__ == "__main__":
    main()
