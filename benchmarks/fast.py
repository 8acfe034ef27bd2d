"""The shortest trainings to 99.0 % and 99.4 % on MNIST, beside the recipes that people use.

    python benchmarks/fast.py fast99      experiment=fast99 and the one-epoch recipe     some 4 minutes
    python benchmarks/fast.py fast994     experiment=fast994 and PyTorch's own example   some 30 minutes
    python benchmarks/fast.py parts       fast99 without each of its parts, on validation images
    python benchmarks/fast.py cifar10     experiment=fast_cifar10 on random images: the time alone
    python benchmarks/fast.py … --seeds 3 --rivals 1      fewer
    python benchmarks/fast.py table       only the tables, from the committed file

On a quiet machine with the official MNIST files ($CNNEXP_DATA or data/). All trains in one process: a round
is a training of the recipe by its own seed and, in the first rounds, one of the rival.

What is timed, in seconds by the clock and in those of the processor (all threads): from the data in memory
to the trained network. For the rival that is from the making of the optimiser to the last step; its images
are floats already. For cnnexp it is the whole of ``Trainer.fit``, from Lightning's set-up to its teardown,
bytes made floats, metrics.csv, status and checkpoint written. Not in it, for both: imports, reading the
files, and what is done once a machine (compiling kernels, choosing the ways of the gradients); nor the test.
PyTorch's example reads its images from torchvision's data set as it trains and tests after each epoch, which
is how it is published; its accuracy is that of the epoch at which it has 99.0 %.

Writes the rows of the study into benchmarks/results/fast.csv, a row a training, and the tables between
``<!-- fast… -->`` and ``<!-- end -->`` of docs/.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.callbacks import Callback
from published import place, read_rows, write_rows

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.runs import RunFolder
from cnnexp.speed.result import conditions
from cnnexp.training import run_training
from cnnexp.tuning import multiplies_bfloat16

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "fast.csv"
VALIDATED = ("data.val_size=10000", "test=false")
"""Where settings are compared: 50,000 images to train on, 10,000 to judge by, no test image read."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "fast99": (),
    "AdamW for all": ("optimizer=adamw", "optimizer.lr=0.01"),
    "SGD with Nesterov's momentum": ("optimizer=nesterov", "optimizer.lr=0.1"),
    "no label smoothing": ("regularization.label_smoothing=null",),
    "no shifts": ("regularization.random_shift=null",),
    "no crop": ("model.crop=0",),
    "statistics of torch's memory": ("model.norm_memory=0.1",),
    "half the channels": ("model.channels=[8,16]",),
    "constant learning rate": ("scheduler=none",),
    "a sixth more images": ("data.train_size=28672",),
    "a sixth fewer images": ("data.train_size=20480",),
    "in float32": ("accelerator.precision=32-true",),
}


class Study(NamedTuple):
    """What is trained: settings of ours by name, and a rival's program."""

    settings: Mapping[str, tuple[str, ...]]
    rival: str
    seeds: int
    rivals: int


STUDIES = {
    "fast99": Study({"cnnexp fast99": ("experiment=fast99",)}, "one epoch", 30, 5),
    "fast994": Study({"cnnexp fast994": ("experiment=fast994",)}, "PyTorch's example", 10, 1),
    "parts": Study(
        {name: ("experiment=fast99", *VALIDATED, *changes) for name, changes in PARTS.items()},
        *("", 10, 0),
    ),
    "cifar10": Study(
        {
            "cnnexp fast_cifar10": (
                *("experiment=fast_cifar10", "data=synthetic", "data.image_size=32"),
                *("trainer.max_epochs=1", "data.channels=3", "data.size=1000"),
                *("data.val_size=0", "data.batch_size=250"),
            )
        },
        *("", 1, 0),
    ),
}
Row = Mapping[str, Any]


class Clock(Callback):
    """Time ``Trainer.fit``: ``seconds`` by the clock, ``cpu_seconds`` of all threads."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def setup(self, *_arguments: Any, **options: Any) -> None:
        """Start, where a fit begins."""
        if options["stage"] == "fit":
            self._begin = time.perf_counter(), time.process_time()

    def teardown(self, *_arguments: Any, **options: Any) -> None:
        """Stop, where it ends."""
        if options["stage"] == "fit":
            self.seconds = time.perf_counter() - self._begin[0]
            self.cpu_seconds = time.process_time() - self._begin[1]


def ours(settings: Sequence[str], seed: int, layers: dict[str, str]) -> dict[str, Any]:
    """A training of ours; ``layers`` are the ways of the gradients once they are chosen, and is filled."""
    overrides = [*settings, f"seed={seed}", "accelerator=cpu"]
    config = plain_config(Composer("train").compose(overrides))
    if config["data"].get("fallback"):
        config["data"]["fallback"] = "error"
    job, clock = build_job(config), Clock()
    job = replace(job, callbacks=lambda: [clock], backward_layers=layers or None)
    job.data.split()
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch))
        result = run_training(job, folder)
        layers.update(folder.read_config().get("backward", {}).get("layers") or {})
    judged = "test/acc" if job.test else "val/acc"
    return {
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "images": result["epochs"] * len(job.data.train),
        "accuracy": result[judged],
        "on": judged.partition("/")[0],
    }


def rival(name: str, data: Path, seed: int) -> dict[str, Any]:
    """A training of the rival ``name``, by its program in benchmarks/peers, in this process."""
    lines: list[str] = []
    mnist = importlib.import_module("mnist")

    def heard(*words: object) -> None:
        lines.append(" ".join(map(str, words)))

    if name == "one epoch":
        one_epoch: Any = importlib.import_module("one_epoch")
        plain_torch = importlib.import_module("plain_torch")
        one_epoch.say = heard
        (train, held_out, test) = (plain_torch.tensors(part) for part in mnist.parts(data, seed))
        images, labels = (torch.cat(pair) for pair in zip(train, held_out, strict=True))
        way = "bfloat16" if multiplies_bfloat16(torch.device("cpu")) else "channels_last"
        model = one_epoch.train(images, labels, way, seed)
        heard("test", plain_torch.accuracy(model, *test, torch.channels_last))
        return heard_of(f"one epoch, {way}", [*lines, "epoch 1 nan"])
    pytorch_example: Any = importlib.import_module("pytorch_example")
    pytorch_example.say = heard
    task = mnist.Task(data, 14, seed, "")
    pytorch_example.asked = lambda: task
    pytorch_example.main()
    return heard_of(name, lines)


def heard_of(name: str, lines: Sequence[str]) -> dict[str, Any]:
    """The figures of the rival ``name``, which it said in ``lines``."""
    said = {words[0]: words[1:] for line in lines if (words := line.split())}
    return {
        "program": name,
        "seconds": float(said["trained"][0]),
        "cpu_seconds": float(said["trained"][1]),
        "images": 60_000 * int(said["epoch"][0]),
        "accuracy": float(said["test"][0]),
        "on": "test",
    }


def measure(name: str, study: Study, data: Path, seeds: int, rivals: int) -> None:
    """A row a training, written as it ends; what is compiled and measured first is not counted."""
    rows: list[Row] = []
    layers: dict[str, dict[str, str]] = {program: {} for program in study.settings}
    for seed in range(max(seeds, rivals)):
        found: list[dict[str, Any]] = []
        for program, settings in study.settings.items() if seed < seeds else ():
            if seed == 0:
                few = ("data.train_size=256", "trainer.max_epochs=1")
                ours([*settings, *few], 0, layers[program])
            found.append({"program": program, **ours(settings, seed, layers[program])})
        if seed < rivals:
            found.append(rival(study.rival, data, seed))
        for row in found:
            rows.append(as_row(name, seed, row))
            print(
                f"{row['program']}, seed {seed}: {100 * row['accuracy']:.2f} % ({row['on']})  "
                f"{row['seconds']:.2f} s, of the processor {row['cpu_seconds']:.2f} s",
                flush=True,
            )
        write(name, rows)


def as_row(name: str, seed: int, found: Mapping[str, Any]) -> Row:
    """The row of a training, with the conditions of its measurement."""
    digits = {"seconds": 3, "cpu_seconds": 3, "accuracy": 4}
    rounded = {key: round(v, digits[key]) if key in digits else v for key, v in found.items()}
    return {"study": name, "seed": seed, **rounded, **conditions(torch.device("cpu"))}


def read() -> list[dict[str, str]]:
    """The rows of the committed file; none where there is no such file."""
    return read_rows(RESULTS)


def write(name: str, rows: Sequence[Row]) -> None:
    """Put ``rows`` in the place of those that ``name`` had."""
    kept: list[Row] = [row for row in read() if row["study"] != name]
    write_rows(RESULTS, [*kept, *rows], ["study"])


def table(name: str, rows: Sequence[Row]) -> str:
    """The Markdown table of a study: a program a row."""
    own = [row for row in rows if row["study"] == name]
    if not own:
        return f"Not measured yet: `python benchmarks/fast.py {name}`."
    by_program: dict[str, list[Row]] = {}
    for row in own:
        by_program.setdefault(str(row["program"]), []).append(row)
    first, beside_it = next(iter(by_program)), STUDIES[name].rival
    base = next((p for p in by_program if beside_it and p.startswith(beside_it)), first)
    part = {"test": "test", "val": "validation"}[str(own[0]["on"])]
    lines = [
        f"| program | {part} accuracy, mean ± deviation | least–greatest | n | images | / {base} | "
        f"processor's seconds | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    of_base = statistics.median(_values(by_program[base], "cpu_seconds"))
    for program, found in by_program.items():
        accuracy = [100 * value for value in _values(found, "accuracy")]
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        cpu = _values(found, "cpu_seconds")
        lines.append(
            f"| {program} | {statistics.mean(accuracy):.2f} ± {spread:.2f} % | "
            f"{min(accuracy):.2f}–{max(accuracy):.2f} | {len(found)} | "
            f"{int(_values(found, 'images')[0]):,} | {statistics.median(cpu) / of_base:.2f} | "
            f"{_range(cpu)} | {_range(_values(found, 'seconds'))} |"
        )
    last, spent = own[-1], sum(_values(own, "cpu_seconds")) / int(own[-1]["threads"])
    others = 1 - spent / sum(_values(own, "seconds"))
    beside = f" (other programs had {100 * others:.0f} % of the time)" if others > 0.1 else ""
    return "\n".join(
        [
            *lines,
            "",
            f"Made by `python benchmarks/fast.py {name}`: times are medians (least–greatest), the ratio is "
            f"of the processor's{beside}; {last['date']}; {last['processor']}, {last['threads']} thread"
            f"{'s' if int(last['threads']) > 1 else ''}; cnnexp {last['cnnexp']}, torch {last['torch']}, "
            f"Python {last['python']}.",
        ]
    )


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [float(row[key]) for row in rows]


def _range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", choices=[*STUDIES, "table"])
    parser.add_argument("--seeds", type=int, help="trainings of ours")
    parser.add_argument("--rivals", type=int, help="trainings of the rival")
    parser.add_argument(
        "--said", type=Path, help="add the rival's row from the lines of its program, in this file"
    )
    options = parser.parse_args()
    data = Path(os.environ.get("CNNEXP_DATA", ROOT / "data")).resolve()
    if options.study != "table":
        if options.study != "cifar10" and not (data / "MNIST" / "raw").is_dir():
            parser.error(f"{data} has no MNIST/raw: set CNNEXP_DATA to the folder that has it")
        sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
        logging.basicConfig(level=logging.WARNING)
        study = STUDIES[options.study]
        seeds = study.seeds if options.seeds is None else options.seeds
        rivals = study.rivals if options.rivals is None else options.rivals
        if options.said is None:
            measure(options.study, study, data, seeds, rivals)
        else:
            found = heard_of(study.rival, options.said.read_text(encoding="utf-8").splitlines())
            own = [row for row in read() if row["study"] == options.study]
            write(options.study, [*own, as_row(options.study, 0, found)])
    for name in STUDIES:
        made = table(name, read())
        place(f"fast-{name}", made)
        if options.study in (name, "table"):
            print(made)


if __name__ == "__main__":
    main()
