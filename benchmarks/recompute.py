"""How much memory a step needs that computes again instead of keeping, and what that costs in time.

    python benchmarks/recompute.py            ten networks of torchvision, about 15 minutes
    python benchmarks/recompute.py resnet18   some of them, nothing written
    python benchmarks/recompute.py --csv      only the table, from the committed file

Each network takes 32 random images of 64×64 in channels_last and float32: zero_grad, forward, loss, backward,
SGD. Its ways take turns in one process: torch's layers, ``fused``, and ``recompute=True`` with ``fused`` and
with torch's own layers for all that does not have to be ours (what ``auto`` may choose). "Kept" is what the
forward saves for the backward, each memory counted once, without the parameters. Times are ratios to
``fused``, the median of the rounds.

Writes benchmarks/results/recompute.csv with conditions; docs/pytorch.md shows it as a table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from accuracy import read, write
from published import place

from cnnexp.nn import replace_layers
from cnnexp.nn.layer import Layer
from cnnexp.ops import AUTO, NATIVE
from cnnexp.speed.result import conditions, spread
from cnnexp.tuning.memory import saved_bytes
from cnnexp.tuning.timing import interleaved_times

NETWORKS = (
    *("mobilenet_v2", "efficientnet_b0", "vgg11_bn", "mobilenet_v3_small", "densenet121"),
    *("resnet18", "resnet50", "shufflenet_v2_x0_5", "regnet_y_400mf", "resnext50_32x4d"),
)
BATCH, SIZE = 32, 64
TORCH, FUSED, AGAIN, LEAST = "torch", "fused", "fused, recompute", "torch's layers, recompute"


def least(network: nn.Module) -> nn.Module:
    """``network`` with torch's own layers wherever ``recompute`` does not ask for ours."""
    for layer in replace_layers(network, AUTO, recompute=True, quiet=True).modules():
        if isinstance(layer, Layer) and layer.algorithm == AUTO:
            layer.algorithm = NATIVE
    return network


CHANGES: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    TORCH: lambda network: network,
    FUSED: lambda network: replace_layers(network, "fused", quiet=True),
    AGAIN: lambda network: replace_layers(network, "fused", recompute=True, quiet=True),
    LEAST: least,
}


class Way:
    """A network in training, and its batch."""

    def __init__(self, name: str, change: Callable[[nn.Module], nn.Module]) -> None:
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, num_classes=10)
        self.network = change(network.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]
        images = torch.randn(BATCH, 3, SIZE, SIZE)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(BATCH) % 10
        self.optimizer = torch.optim.SGD(self.network.parameters(), 1e-3)

    def loss(self) -> Tensor:
        return nn.functional.cross_entropy(self.network(self.images), self.labels)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()


def measured(name: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each way of the network ``name``."""
    ways = {way: Way(name, change) for way, change in CHANGES.items()}
    steps = {way: each.step for way, each in ways.items()}
    times = interleaved_times(steps, torch.device("cpu"), rounds=rounds, warm_up=2)
    rows = []
    for way, each in ways.items():
        median, low, high = spread(times[way])
        pairs = zip(times[way], times[FUSED], strict=True)
        rows.append(
            {
                "network": name,
                "way": way,
                "ms": round(median, 2),
                "low_ms": round(low, 2),
                "high_ms": round(high, 2),
                "by fused": round(statistics.median(mine / theirs for mine, theirs in pairs), 3),
                "kept_mb": round(saved_bytes(each.loss, each.network.parameters()) / 1e6, 2),
                "rounds": rounds,
                **conditions(torch.device("cpu")),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table of the file's rows: a line a network, with their conditions."""
    if not rows:
        return "Not measured yet: `python benchmarks/recompute.py`."
    lines = [
        "| network | `fused` | `fused`, recompute | torch's layers, recompute | time |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["network"] for row in rows):
        of = {row["way"]: row for row in rows if row["network"] == name}
        kept = {way: float(row["kept_mb"]) / float(of[TORCH]["kept_mb"]) for way, row in of.items()}
        lines.append(
            f"| {name} | {kept[FUSED]:.2f} | {kept[AGAIN]:.2f} | {kept[LEAST]:.2f} | "
            f"{float(of[AGAIN]['by fused']):.2f} |"
        )
    of = rows[0]
    lines += [
        "",
        f"By `python benchmarks/recompute.py`: {BATCH} images of {SIZE}×{SIZE}, {of['rounds']} interleaved "
        f"rounds; {of['date']}; {of['processor']}, {of['threads']} threads; cnnexp {of['cnnexp']}, torch "
        f"{of['torch']}, Python {of['python']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure the networks, show and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="network", help="any of torchvision's")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--csv", action="store_true", help="only the table, from the file")
    options = parser.parse_args()
    if options.csv:
        place("recompute", table(read("recompute")))
        return
    rows: list[dict[str, Any]] = []
    for name in options.networks or NETWORKS:
        rows += measured(name, options.rounds)
        print(table(rows[-len(CHANGES) :]), flush=True)
    if not options.networks:
        write("recompute", rows)
        place("recompute", table(rows))


if __name__ == "__main__":
    main()
