"""How well the choices train: sweeps on real MNIST, their figures with conditions, the tables in the docs.

    python benchmarks/accuracy.py experiments         the recipes of conf/experiment, three seeds each
    python benchmarks/accuracy.py optimizers          every optimiser with its defaults, on 10,000 images
    python benchmarks/accuracy.py backwards           the article's settings by several algorithms
    python benchmarks/accuracy.py precisions          the article's in float32 and bfloat16, 15 seeds
    python benchmarks/accuracy.py private             ε against accuracy, a small network from end to end
    python benchmarks/accuracy.py private_scatter     ε against accuracy, on wavelet features
    python benchmarks/accuracy.py … --table           train nothing: from the runs that are done here
    python benchmarks/accuracy.py … --csv             only the table, from the committed file

Each trains by ``python -m cnnexp.train -m …`` what is not done yet, writes
benchmarks/results/<study>.csv (rows of jobs that were done elsewhere stay), and the table between
``<!-- <study> -->`` and ``<!-- end -->`` of README.md and docs/. The epoch is chosen on validation
images; the test images are read once a run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from published import RESULTS, ROOT, place, read_rows, write_rows

from cnnexp.runs import RunFolder, config_hash

FIGURES = (
    *("dataset", "test/acc", "test/loss", "val/acc", "best_epoch", "epochs", "steps"),
    *("parameters", "seconds_fit", "images_per_second", "config_hash"),
)


@dataclass(frozen=True)
class Study:
    """Sweeps over the values of one config group.

    Attributes:
        group: What is compared.
        values: Its choices.
        settings: Overrides that all share.
        own: Further overrides of some choices.
        seeds: Of each choice.
    """

    group: str
    values: tuple[str, ...]
    settings: tuple[str, ...] = ()
    own: dict[str, tuple[str, ...]] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)

    def overrides(self, value: str) -> list[str]:
        """The command line of ``value``, without name and seeds."""
        own = (self.own or {}).get(value, ())
        return [f"{self.group}={value}", *self.settings, *own, "data.fallback=error"]


def _choices(group: str) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml")))


def _averaged(lr: float, clip: float, decay: float) -> tuple[str, ...]:
    """Private steps without momentum, and the average of the weights behind them."""
    return (
        *(f"optimizer.lr={lr}", "optimizer.momentum=0", f"privacy.clip={clip}"),
        *("regularization=ema", f"regularization.ema.decay={decay}"),
    )


STUDIES = {
    "experiments": Study("experiment", ("article", "best", "large_batch", "tiny")),
    "optimizers": Study(
        "optimizer",
        _choices("optimizer"),
        ("data.train_size=10000", "trainer.max_epochs=10"),
        # one step an epoch, and some eight passes a step: see docs/results.md
        own={"gd": ("trainer.max_epochs=150",), "lbfgs": ("trainer.max_epochs=4",)},
    ),
    "private": Study(
        "privacy.epsilon",
        ("1", "2", "3"),
        ("experiment=private", "data.batch_size=2048"),
        # chosen by the accuracy on held-out training images: docs/privacy.md
        own={
            "1": ("optimizer.lr=10", "trainer.max_epochs=40"),
            "2": ("optimizer.lr=14", "trainer.max_epochs=60"),
            "3": ("optimizer.lr=20", "trainer.max_epochs=60"),
        },
    ),
    "private_scatter": Study(
        "privacy.epsilon",
        ("1", "2", "3"),
        ("experiment=private_scatter",),
        # chosen by the accuracy on held-out training images: docs/privacy.md
        own={
            "1": ("data.batch_size=4096", "optimizer.lr=4"),
            "2": ("data.batch_size=4096", "trainer.max_epochs=40", *_averaged(8, 0.3, 0.9)),
            "3": ("data.batch_size=2048", "trainer.max_epochs=80", *_averaged(8, 0.2, 0.98)),
        },
    ),
    "backwards": Study("backward", ("direct", "im2col", "native"), ("experiment=article",)),
    "precisions": Study(
        "accelerator.precision",
        ("32-true", "bf16-mixed"),
        ("experiment=article",),
        seeds=tuple(range(15)),
    ),
}


def train(name: str, values: Sequence[str], seeds: Sequence[int]) -> None:
    """Run every job that is not done yet, one sweep a choice."""
    for value in values:
        command = [sys.executable, "-m", "cnnexp.train", "-m", *STUDIES[name].overrides(value)]
        command += [f"name={name}-{value}", f"seed={','.join(map(str, seeds))}"]
        subprocess.run(command, check=True)


def collect(name: str, root: Path) -> list[dict[str, str]]:
    """The figures and conditions of every job that is done, as the rows of the file."""
    rows = []
    for value in STUDIES[name].values:
        for file in (root / f"{name}-{value}").glob("*/result.json"):
            run = RunFolder(file.parent)
            result, origin = run.read_result(), run.read_provenance()
            row = {STUDIES[name].group: value, "seed": result["seed"]}
            row |= {figure: result[figure] for figure in FIGURES}
            row["config_hash"] = config_hash(run.read_config())
            row |= {"date": origin["time"][:10], "commit": (origin["git"] or {}).get("commit", "")}
            row |= {key: origin.get(key) for key in ("device", "processor", "threads", "python")}
            row |= {key: origin["versions"][key] for key in ("cnnexp", "torch", "lightning")}
            rows.append({key: str(cell) for key, cell in row.items()})
    return rows


def merged(
    name: str, known: Sequence[dict[str, str]], done: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    """The rows ``known``, those of ``done`` in place of older ones of the same choice and seed."""
    group = STUDIES[name].group
    rows = {(row[group], int(row["seed"])): row for row in (*known, *done)}
    return [rows[key] for key in sorted(rows)]


def table(name: str, rows: Sequence[dict[str, str]]) -> str:
    """The Markdown table: a choice a row, mean ± standard deviation over its seeds."""
    group = STUDIES[name].group
    lines = [
        f"| `{group}=` | test accuracy | by seed | validation | epochs | s a run | parameters |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for value in dict.fromkeys(row[group] for row in rows):
        own = [row for row in rows if row[group] == value]
        accuracies = [100 * float(row["test/acc"]) for row in own]
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(own) > 1 else ""
        validation = statistics.mean(100 * float(row["val/acc"]) for row in own)
        seconds = statistics.median(float(row["seconds_fit"]) for row in own)
        lines.append(
            f"| `{value}` | {statistics.mean(accuracies):.2f}{spread} % | "
            f"{', '.join(f'{accuracy:.2f}' for accuracy in accuracies)} | {validation:.2f} % | "
            f"{own[0]['epochs']} | {seconds:.0f} | {int(own[0]['parameters']):,} |"
        )
    return "\n".join(lines)


def read(name: str) -> list[dict[str, str]]:
    """The rows of the committed file; none where there is no such file yet."""
    return read_rows(RESULTS / f"{name}.csv")


def write(name: str, rows: Sequence[dict[str, str]]) -> None:
    """Write the file; a condition that a row does not know stays empty."""
    write_rows(RESULTS / f"{name}.csv", rows)


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description="accuracies on MNIST, three seeds each")
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--only", help="these choices, comma-separated")
    parser.add_argument("--seed", help="these seeds, comma-separated")
    parser.add_argument("--table", action="store_true", help="from the runs that are done")
    parser.add_argument(
        "--csv", action="store_true", help="only the table, from the committed file"
    )
    options = parser.parse_args()
    study = STUDIES[options.study]
    if not (options.table or options.csv):
        values = options.only.split(",") if options.only else study.values
        seeds = [int(s) for s in options.seed.split(",")] if options.seed else study.seeds
        train(options.study, values, seeds)
    if not options.csv:
        done = collect(options.study, Path("outputs/sweeps"))
        if not done:
            parser.exit(1, "no job is done in outputs/sweeps\n")
        write(options.study, merged(options.study, read(options.study), done))
    made = table(options.study, read(options.study))
    place(options.study, made)
    print(made)


if __name__ == "__main__":
    main()
