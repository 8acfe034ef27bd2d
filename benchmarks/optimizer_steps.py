"""How long a step of an optimiser takes, torch's with one kernel for all weights and ours with less Python.

    python benchmarks/optimizer_steps.py          four networks, Adam and SGD with momentum, some seconds
    python benchmarks/optimizer_steps.py --csv    only the table, from the committed file

Weights and gradients of a network lie in channels_last; the two take turns in one process, alone and hot, so
that a training, in which code and weights come from memory each time, spares more.
Writes benchmarks/results/optimizer_steps.csv with conditions; docs/pytorch.md shows it as a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from published import RESULTS, place, read_rows, write_rows
from torch import nn

from cnnexp import optim
from cnnexp.speed.networks import network_named
from cnnexp.speed.result import conditions, spread
from cnnexp.tuning.timing import interleaved_times

FILE = RESULTS / "optimizer_steps.csv"
NETWORKS = ("lenet5", "tiny", "seed_cnn", "resnet18")
KINDS: dict[str, dict[str, Any]] = {"Adam": {}, "SGD": {"momentum": 0.9}}


def measured(name: str, kind: str, rounds: int) -> dict[str, Any]:
    """A row: medians and quartiles of both, in microseconds."""
    known = network_named(name)
    torch.manual_seed(0)
    network: nn.Module = known.make(known.size or 64)
    steps = {}
    for whose, module in (("torch", torch.optim), ("ours", optim)):
        own = [nn.Parameter(each.detach().clone()) for each in network.parameters()]
        for weight in own:
            weight.grad = torch.rand_like(weight)
        steps[whose] = getattr(module, kind)(own, lr=1e-5, fused=True, **KINDS[kind]).step
    times = interleaved_times(steps, torch.device("cpu"), rounds=rounds, warm_up=5)
    weights = [*network.parameters()]
    row: dict[str, Any] = {"network": name, "optimizer": kind, "tensors": len(weights)}
    row["weights"] = sum(each.numel() for each in weights)
    for whose, each in times.items():
        for column, value in zip(("us", "low_us", "high_us"), spread(each), strict=True):
            row[f"{whose}_{column}"] = round(1e3 * value, 1)
    return row | {"rounds": rounds} | conditions(torch.device("cpu"))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table of the file's rows, with their conditions."""
    if not rows:
        return "Not measured yet: `python benchmarks/optimizer_steps.py`."
    lines = [
        "| network | tensors, weights | optimiser | torch's, µs | ours, µs | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        theirs, own = float(row["torch_us"]), float(row["ours_us"])
        lines.append(
            f"| `{row['network']}` | {row['tensors']}, {int(row['weights']):,} | {row['optimizer']} | "
            f"{theirs:,.0f} | {own:,.0f} | {own / theirs:.2f} |"
        )
    of = rows[0]
    lines += [
        "",
        f"By `python benchmarks/optimizer_steps.py`: medians of {of['rounds']} interleaved rounds; "
        f"{of['date']}; {of['processor']}, {of['threads']} threads; cnnexp {of['cnnexp']}, torch "
        f"{of['torch']}, Python {of['python']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, show and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--csv", action="store_true", help="only the table, from the file")
    options = parser.parse_args()
    if not options.csv:
        write_rows(FILE, [measured(n, k, options.rounds) for n in NETWORKS for k in KINDS])
    made = table(read_rows(FILE))
    place("optimizer_steps", made)
    print(made)


if __name__ == "__main__":
    main()
