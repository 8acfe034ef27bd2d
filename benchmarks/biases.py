"""What a joint backward of a product, its bias and its activation could save.

    python benchmarks/biases.py               four networks, some 4 minutes
    python benchmarks/biases.py squeezenet1_1 one of them, nothing written
    python benchmarks/biases.py --csv         only the table, from the committed file

Such a backward would take ∂L/∂b and the gradient of the activation in one pass over memory, where torch makes
two. No pass takes less time than none: torch's own network is timed with the biases of its convolutions and
linear layers and without them, in turns, in float32 and in bfloat16. That is the bound. But a joint backward
is a Function in Python; so a third network has no biases, and each activation by such a Function, which calls
torch's own kernels. What is left of the step then is what a perfect block would leave of it.

Writes benchmarks/results/biases.csv with conditions; docs/decisions/product-and-activation.md has the table.
"""

from __future__ import annotations

import argparse
import copy
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

from cnnexp.speed.result import conditions
from cnnexp.tuning.timing import interleaved_times

# height and width of the images, and how many
NETWORKS = {
    "convnext_tiny": (64, 32),
    "squeezenet1_1": (64, 32),
    "alexnet": (64, 32),
    "vgg11": (32, 16),
}
WITH, WITHOUT, CALLED = "with biases", "without", "without, by Functions"


class _Activation(torch.autograd.Function):
    """A ReLU or GELU by torch's own kernels, called as a joint backward would be."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, relu: bool) -> Tensor:
        """The output."""
        output = torch.relu_(input) if relu else nn.functional.gelu(input)
        ctx.relu = relu
        if relu:
            ctx.mark_dirty(input)
        ctx.save_for_backward(output if relu else input)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """∂L/∂x."""
        (kept,) = ctx.saved_tensors
        if ctx.relu:
            return torch.ops.aten.threshold_backward(grad_output, kept, 0), None
        return torch.ops.aten.gelu_backward(grad_output, kept), None


class _Called(nn.Module):
    """An activation by such a Function."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.relu = relu

    def forward(self, input: Tensor) -> Tensor:
        return _Activation.apply(input, self.relu)  # pyright: ignore[reportReturnType]


def without_biases(network: nn.Module, called: bool = False) -> nn.Module:
    """A copy of ``network`` whose convolutions and linear layers have none; activations by Functions."""
    network = copy.deepcopy(network)
    for layer in list(network.modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_parameter("bias", None)
        for name, part in layer.named_children():
            if called and isinstance(part, (nn.ReLU, nn.GELU)):
                setattr(layer, name, _Called(isinstance(part, nn.ReLU)))
    return network


def _step(network: nn.Module, images: Tensor, labels: Tensor, bfloat16: bool) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        network.zero_grad()

    return step


def measured(name: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each precision of the network ``name``, and each way but the first."""
    size, batch = NETWORKS[name]
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=10)
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10
    ways = {WITH: network, WITHOUT: without_biases(network), CALLED: without_biases(network, True)}
    rows = []
    for bfloat16 in (False, True):
        steps = {way: _step(each, images, labels, bfloat16) for way, each in ways.items()}
        times = interleaved_times(steps, torch.device("cpu"), rounds=rounds, warm_up=3)
        for way in (WITHOUT, CALLED):
            ratios = [b / a for a, b in zip(times[WITH], times[way], strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            rows.append(
                {
                    "network": name,
                    "size": size,
                    "batch": batch,
                    "precision": "bfloat16" if bfloat16 else "float32",
                    "ms": round(1e3 * statistics.median(times[WITH]), 2),
                    "way": way,
                    "ratio": round(median, 3),
                    "low": round(low, 3),
                    "high": round(high, 3),
                    "rounds": rounds,
                    **conditions(torch.device("cpu")),
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table of the file's rows, with their conditions."""
    lines = [
        f"| network | precision | step in ms | {WITHOUT} biases | {CALLED} |",
        "| --- | --- | --- | --- | --- |",
    ]
    for bound, called in zip(rows[::2], rows[1::2], strict=True):
        what = f"{bound['network']}, {bound['size']}×{bound['size']}, batch {bound['batch']}"
        cells = [
            f"{float(row['ratio']):.2f} ({float(row['low']):.2f}–{float(row['high']):.2f})"
            for row in (bound, called)
        ]
        lines.append(
            f"| {what} | {bound['precision']} | {float(bound['ms']):.1f} | {' | '.join(cells)} |"
        )
    of = rows[0]
    lines += [
        "",
        f"Median and quartiles of {of['rounds']} rounds; {of['date']}, {of['processor']}, {of['threads']} "
        f"threads; torch {of['torch']}, Python {of['python']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure the networks, show and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="network", help=", ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--csv", action="store_true", help="only the table, from the file")
    options = parser.parse_args()
    if options.csv:
        print(table(read("biases")))
        return
    if unknown := [name for name in options.networks if name not in NETWORKS]:
        parser.error(f"unknown network '{unknown[0]}'; known: {', '.join(NETWORKS)}")
    rows: list[dict[str, Any]] = []
    for name in options.networks or NETWORKS:
        rows += measured(name, options.rounds)
        print(table(rows[-4:]), flush=True)
    if not options.networks:
        write("biases", rows)


if __name__ == "__main__":
    main()
