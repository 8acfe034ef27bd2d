"""How long linear layers with activations take, forward and backward: torch's one by one, ours in one op.

    python benchmarks/linear_layers.py          six heads of networks, float32 and bfloat16, half a minute
    python benchmarks/linear_layers.py --csv    only the table, from the committed file

The two take turns in one process, hot, on features whose gradient is needed; bfloat16 is within autocast, and
left out on a processor without instructions for it, which computes it slowly.
Writes benchmarks/results/linear_layers.csv with conditions; docs/pytorch.md shows it as a table.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from published import RESULTS, place, read_rows, write_rows
from torch import Tensor, nn

from cnnexp.kept_memory import keep_freed_memory
from cnnexp.nn import replace_layers
from cnnexp.speed.result import conditions, spread
from cnnexp.tuning import multiplies_bfloat16
from cnnexp.tuning.timing import interleaved_times

FILE = RESULTS / "linear_layers.csv"
# what each is of: images a batch, the widths of its layers, and the activation between them
HEADS: dict[str, tuple[int, tuple[int, ...], type[nn.Module]]] = {
    "LeNet-5": (128, (400, 120, 84, 10), nn.Tanh),
    "PyTorch's MNIST example": (64, (9216, 128, 10), nn.ReLU),
    "Keras's MNIST example": (128, (784, 512, 512, 10), nn.ReLU),
    "the CIFAR-10 tutorial": (4, (400, 120, 84, 10), nn.ReLU),
    "the CIFAR-10 tutorial, 128 images": (128, (400, 120, 84, 10), nn.ReLU),
    "VGG-11 on 32×32": (16, (512, 4096, 4096, 10), nn.ReLU),
}
PRECISIONS = ("float32", "bfloat16")


def head(widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers of such widths, each but the last with an activation."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, width in pairwise(widths):
        layers += [nn.Linear(before, width), activation()]
    return nn.Sequential(*layers[:-1])


def _pass(network: nn.Module, features: Tensor, halved: bool) -> Callable[[], object]:
    inputs = [features, *network.parameters()]

    def call() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            output = network(features)
        return torch.autograd.grad(output, inputs, torch.ones_like(output))

    return call


def measured(name: str, precision: str, rounds: int) -> dict[str, Any]:
    """A row: medians and quartiles of both, in microseconds."""
    images, widths, activation = HEADS[name]
    theirs = head(widths, activation)
    ours = replace_layers(copy.deepcopy(theirs), "fused", quiet=True)
    halved = precision == "bfloat16"
    features = torch.randn(images, widths[0]).to(torch.bfloat16 if halved else torch.float32)
    features.requires_grad_()
    ways = {"torch": _pass(theirs, features, halved), "ours": _pass(ours, features, halved)}
    times = interleaved_times(ways, torch.device("cpu"), rounds=rounds, warm_up=5)
    row: dict[str, Any] = {"head": name, "images": images, "precision": precision}
    row["widths"] = " ".join(map(str, widths))
    for whose, each in times.items():
        for column, value in zip(("us", "low_us", "high_us"), spread(each), strict=True):
            row[f"{whose}_{column}"] = round(1e3 * value, 1)
    return row | {"rounds": rounds} | conditions(torch.device("cpu"))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table of the file's rows, with their conditions."""
    if not rows:
        return "Not measured yet: `python benchmarks/linear_layers.py`."
    lines = [
        "| linear layers of | widths, images | precision | torch, µs | in one op, µs | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        theirs, own = float(row["torch_us"]), float(row["ours_us"])
        low, high = float(row["ours_low_us"]), float(row["ours_high_us"])
        widths = str(row["widths"]).replace(" ", " → ")
        lines.append(
            f"| {row['head']} | {widths}, {row['images']} | {row['precision']} | {theirs:,.0f} | "
            f"{own:,.0f} ({low:,.0f}–{high:,.0f}) | {own / theirs:.2f} |"
        )
    of = rows[0]
    lines += [
        "",
        f"By `python benchmarks/linear_layers.py`: forward and backward, medians and quartiles of "
        f"{of['rounds']} interleaved rounds; {of['date']}; {of['processor']}, {of['threads']} threads; "
        f"cnnexp {of['cnnexp']}, torch {of['torch']}, Python {of['python']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, show and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--csv", action="store_true", help="only the table, from the file")
    options = parser.parse_args()
    if not options.csv:
        keep_freed_memory()
        multiplies = multiplies_bfloat16(torch.device("cpu"))
        precisions = PRECISIONS if multiplies else PRECISIONS[:1]
        write_rows(FILE, [measured(n, p, options.rounds) for n in HEADS for p in precisions])
    made = table(read_rows(FILE))
    place("linear_layers", made)
    print(made)


if __name__ == "__main__":
    main()
