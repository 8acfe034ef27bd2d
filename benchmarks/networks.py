"""How fast whole training steps are, ours beside torch's ways: the figures, and the tables in the docs.

    python benchmarks/networks.py step               the article's network, every way      about 5 minutes
    python benchmarks/networks.py networks           sixteen networks, by torch and auto   about two hours
    python benchmarks/networks.py networks-float32   on a processor without bfloat16       about an hour
    python benchmarks/networks.py tutorials          three networks that call functions    about 12 minutes
    python benchmarks/networks.py … --first 14       without the last two, for which memory may not do
    python benchmarks/networks.py … --begin 13 --results FOLDER      from the thirteenth on, to another folder
    python benchmarks/networks.py … --csv            only the tables, from the committed files

On a quiet machine with 32 GB of memory (24 without bfloat16), most of which VGG's ways take: every way of a
network takes its turn in one process, in interleaved rounds, as ``python -m cnnexp.bench step`` does it
(zero_grad, forward, loss, backward, Adam). The process keeps freed memory (``cnnexp.kept_memory``), which all
ways gain from, torch's and ours.
Writes benchmarks/results/<study>-1.csv to -3.csv, three runs with medians, quartiles and conditions, and the
table between ``<!-- <study> -->`` and ``<!-- end -->`` of README.md and docs/. A cell gives the least and the
greatest of the runs' medians, or of the ratios within each run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from published import RESULTS, place, read_rows

RUNS = 3
EVERY_WAY = ("direct", "fused", "im2col", "fft", "native", "auto")
EQUAL = 0.03  # a ratio that is nearer to 1 is no difference
FLOAT32 = ("torch NCHW", "torch channels_last")
BFLOAT16 = ("torch bfloat16", "torch bfloat16 NCHW")
OF_TORCHVISION = (  # those that take long come last
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "regnet_y_400mf",
    "resnet50",
    "densenet121",
    "convnext_tiny",
    "vgg11",  # whose 129 million weights take Adam a second a step
    "vgg11_bn",
)


class Steps(NamedTuple):
    """Steps of one network on random images."""

    model: str
    size: int
    batch: int

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"`{self.model}`, {self.size}×{self.size}, batch {self.batch}"


class Study(NamedTuple):
    """Which networks are timed, by which of our algorithms, and how often."""

    steps: tuple[Steps, ...]
    algorithms: tuple[str, ...]
    rounds: int
    compiles: bool = True
    bfloat16: bool | None = None  # whether the processor must have instructions for it, or must not


NETWORKS = (
    *(Steps(name, 28, 128) for name in ("seed_cnn", "lenet5", "tiny", "vgg")),
    *(Steps(name, 64, 32) for name in OF_TORCHVISION),
)
STUDIES = {
    "step": Study((Steps("seed_cnn", 28, 128),), EVERY_WAY, 25, bfloat16=True),
    "networks": Study(NETWORKS, ("auto",), 15, bfloat16=True),
    "networks-float32": Study(NETWORKS, ("auto",), 15, bfloat16=False),
    "tutorials": Study(
        (
            Steps("mnist_example", 28, 64),
            Steps("cifar_tutorial", 32, 128),
            Steps("cifar_resnet18", 32, 32),
        ),
        ("auto",),
        25,
    ),
}

Row = Mapping[str, str]


def measure(
    study: Study,
    rounds: int,
    results: Path,
    name: str,
    runs: int = RUNS,
    which: slice = slice(None),
) -> None:
    """Write the file of each run, of these networks; it is kept as far as it has come if a later step fails.

    What ``auto`` chose on this machine before, maybe while others used it, is not asked.
    """
    os.environ["CNNEXP_CACHE"] = tempfile.mkdtemp(prefix="cnnexp-networks-")
    from cnnexp.kept_memory import keep_freed_memory

    keep_freed_memory()  # for all ways, torch's as well as ours
    import torch

    from cnnexp import speed

    device = torch.device("cpu")
    for run in range(1, runs + 1):
        rows: list[Any] = []
        for model, size, batch in study.steps[which]:
            rows += speed.bench_step(
                model,
                batch,
                study.algorithms,
                device=device,
                size=size,
                rounds=rounds,
                with_compile=study.compiles,
            )
            speed.write_results(rows, speed.conditions(device), None, results / f"{name}-{run}.csv")
            print(f"run {run} of {runs}: {model}, {size}×{size}, batch {batch}", flush=True)


def read(name: str, results: Path = RESULTS) -> list[list[Row]]:
    """The rows of each run that is there."""
    runs = []
    for run in range(1, RUNS + 1):
        if rows := read_rows(results / f"{name}-{run}.csv"):
            runs.append(rows)
    return runs


def table(name: str, runs: Sequence[Sequence[Row]]) -> str:
    """The Markdown table, and the line under it that says under what it was measured."""
    if not runs:
        return f"Not measured yet: `python benchmarks/networks.py {name}`."
    lines = _step_table(runs) if name == "step" else _networks_table(STUDIES[name].steps, runs)
    first = runs[0][0]
    dates = "–".join(sorted({row["date"] for run in runs for row in run}))
    networks = [len({row["what"] for row in run}) for run in runs]
    of = "" if len({*networks}) == 1 else f" ({', '.join(map(str, networks))} networks)"
    about = (
        f"{len(runs)} run{'s' * (len(runs) > 1)}{of} of {first['rounds']} rounds; {dates}; "
        f"{first['processor']}, {first['threads']} threads; Python {first['python']}, torch "
        f"{first['torch'].partition('+')[0]}."
    )
    return "\n".join([*lines, "", f"Made by `python benchmarks/networks.py {name}`: {about}"])


def _step_table(runs: Sequence[Sequence[Row]]) -> list[str]:
    others = ("torch NCHW", "torch channels_last", "torch.compile", "torch bfloat16")
    ways = {
        **{each: each for each in others},
        "cnnexp fused": "`backward=fused`",
        "cnnexp auto": "`backward=auto`, the default",
        "cnnexp auto, bfloat16": "the same in bfloat16",
    }
    head = ["way", "ms a step", "MB kept for the backward", *(f"/ {each}" for each in others)]
    lines = [_line(head), _line(["---"] * len(head))]
    for way, called in ways.items():
        rows = [row for run in runs for row in run if row["way"] == way]
        if not rows or not all(row["full_ms"] for row in rows):
            lines.append(_line([called, "not measured", *[""] * (len(head) - 2)]))
            continue
        cells = [_span(float(row["full_ms"]) for row in rows), f"{float(rows[0]['saved_mb']):.1f}"]
        for other in others:
            ratios = [row.get(f"vs {other}") or "" for row in rows]
            cells.append(_span(map(float, ratios), 2) if all(ratios) else "")
        lines.append(_line([called, *cells]))
    return lines


def _networks_table(networks: Sequence[Steps], runs: Sequence[Sequence[Row]]) -> list[str]:
    low = all(any(row["way"] in BFLOAT16 for row in run) for run in runs)
    head = [
        "network",
        "torch's best",
        "ms",
        "our best / torch's best",
        "",
        "float32: `auto` / torch",
    ]
    head += ["bfloat16: `auto` / torch"] if low else []
    head += ["kept for the backward, float32"]
    lines = [_line(head), _line(["---"] * len(head))]
    for index, steps in enumerate(networks):
        each = [medians for run in runs if (medians := _of(run, index, "full_ms"))]
        if not each:
            continue
        kept = [_of(run, index, "saved_mb") for run in runs]
        ratios = [_least(own, "cnnexp") / _least(own, "torch") for own in each]
        ways = dict.fromkeys(_fastest(own, "torch").removeprefix("torch ") for own in each)
        cells = [
            steps.name,
            ", ".join(ways),
            _span(_least(own, "torch") for own in each),
            _span(ratios, 2),
            _said(ratios),
            _span((own["cnnexp auto"] / min(own[way] for way in FLOAT32) for own in each), 2),
        ]
        if low:
            ours = "cnnexp auto, bfloat16"
            cells.append(_span((own[ours] / min(own[way] for way in BFLOAT16) for own in each), 2))
        cells.append(
            _span((own["cnnexp auto"] / own["torch channels_last"] for own in kept if own), 2)
        )
        lines.append(_line(cells))
    return lines


def _of(run: Sequence[Row], index: int, column: str) -> dict[str, float]:
    """A column of one network by way: the steps of a run are in order, each with its own name."""
    what = list(dict.fromkeys(row["what"] for row in run))
    if index >= len(what):
        return {}
    own = [row for row in run if row["what"] == what[index] and row[column]]
    return {row["way"]: float(row[column]) for row in own}


def _fastest(medians: Mapping[str, float], whose: str) -> str:
    return min((way for way in medians if way.startswith(whose)), key=lambda way: medians[way])


def _least(medians: Mapping[str, float], whose: str) -> float:
    return medians[_fastest(medians, whose)]


def _said(ratios: Sequence[float]) -> str:
    """In a word, where all runs say it."""
    if all(ratio < 1 - EQUAL for ratio in ratios):
        return "faster"
    return "slower" if all(ratio > 1 + EQUAL for ratio in ratios) else "the same"


def _span(numbers: Any, digits: int = 1) -> str:
    low, high = (f"{f(values):.{digits}f}" for values in [list(numbers)] for f in (min, max))
    return low if low == high else f"{low}–{high}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _see_that_it_can(parser: argparse.ArgumentParser, study: str) -> None:
    """A table of both precisions is not replaced by one that lacks the better, nor the other way round."""
    import torch

    from cnnexp.tuning import multiplies_bfloat16

    able, wanted = multiplies_bfloat16(torch.device("cpu")), STUDIES[study].bfloat16
    if wanted is not None and able is not wanted:
        others = ", ".join(name for name, each in STUDIES.items() if each.bfloat16 in (None, able))
        has = "has" if able else "has no"
        parser.error(
            f"{study}: this processor {has} instructions for bfloat16; run one of {others}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description="whole training steps beside torch's")
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--rounds", type=int, help="of each run")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"how many (default: {RUNS})")
    parser.add_argument("--first", type=int, help="how many of the networks (default: all)")
    parser.add_argument("--begin", type=int, default=1, help="with which of them (default: 1)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the files")
    parser.add_argument("--csv", action="store_true", help="only the table, from the files")
    options = parser.parse_args(arguments)
    study = STUDIES[options.study]
    if options.first is not None and not 1 <= options.first <= len(study.steps):
        parser.error(
            f"--first {options.first}: {options.study} has 1 to {len(study.steps)} networks"
        )
    last = options.first or len(study.steps)
    if not 1 <= options.begin <= last:
        parser.error(f"--begin {options.begin}: must be one of the networks 1 to {last}")
    if not options.csv:
        _see_that_it_can(parser, options.study)
        counts = options.runs, slice(options.begin - 1, last)
        measure(study, options.rounds or study.rounds, options.results, options.study, *counts)
    made = table(options.study, read(options.study, options.results))
    if options.results == RESULTS:
        place(options.study, made)
    print(made)


if __name__ == "__main__":
    main()
