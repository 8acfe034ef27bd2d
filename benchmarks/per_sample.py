"""How long the gradients of all samples take: ours beside torch.func's ``vmap(grad(…))``.

    python benchmarks/per_sample.py            about 2 minutes
    python benchmarks/per_sample.py --quick    3 rounds, nothing written

The article's network (``model=seed_cnn``) on one random batch of 128 images in float32; all ways in one
process, in interleaved rounds: ``gradients`` writes (N, *shape) for each parameter, ``norms`` none of them.
Yardstick is torch.func; ``by torch.func`` is the median of the ratios of the rounds. "One by one" makes N
passes of one image.

Writes benchmarks/results/per_sample.csv with conditions; docs/pytorch.md shows it as a table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))

from published import place, read_rows, write_rows

from cnnexp.models import SeedCNN
from cnnexp.nn import per_sample_gradients, per_sample_norms, replace_layers
from cnnexp.speed.result import conditions, spread
from cnnexp.tuning.timing import interleaved_times

RESULTS = Path(__file__).resolve().parent / "results" / "per_sample.csv"
BATCH = 128
YARDSTICK = "torch.func gradients"
Way = Callable[[], Any]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return SeedCNN().eval()  # torch.func takes no dropout without being told to


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 1, 28, 28, generator=generator), torch.arange(BATCH) % 10


def by_func() -> Way:
    network, (images, labels) = _network(), _batch()
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, parameters, (image[None],)), label[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    return lambda: each(parameters, images, labels)


def one_by_one() -> Way:
    network, (images, labels) = _network(), _batch()
    parameters = [*network.parameters()]

    def run() -> list[Tensor]:
        pairs = zip(images.split(1), labels.split(1), strict=True)
        rows = [torch.autograd.grad(F.cross_entropy(network(x), y), parameters) for x, y in pairs]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    return run


def ours(backward: str, function: Callable[..., Any]) -> Way:
    network, batch = replace_layers(_network(), backward, quiet=True), _batch()
    return lambda: function(network, F.cross_entropy, batch)


def ways() -> dict[str, Way]:
    """The ways to time; all are called once before, for what compiles."""
    return {
        YARDSTICK: by_func(),
        "one by one": one_by_one(),
        **{
            f"ours {name} gradients": ours(name, per_sample_gradients)
            for name in ("native", "fused")
        },
        **{f"ours {name} norms": ours(name, per_sample_norms) for name in ("native", "fused")},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table of the file's rows, with their conditions."""
    lines = [
        "| way | ms, median (quartiles) | / `torch.func`, median of the rounds |",
        "| --- | --- | --- |",
    ]
    for row in rows:
        ms = f"{float(row['ms']):.0f} ({float(row['low_ms']):.0f}–{float(row['high_ms']):.0f})"
        lines.append(f"| {row['way']} | {ms} | {float(row['by torch.func']):.2f} |")
    of = rows[0]
    lines += [
        "",
        f"By `python benchmarks/per_sample.py`: a batch of {BATCH}, float32, {of['rounds']} interleaved "
        f"rounds; {of['date']}; {of['processor']}, {of['threads']} threads; cnnexp {of['cnnexp']}, torch "
        f"{of['torch']}, Python {of['python']}.",
    ]
    return "\n".join(lines)


def read() -> list[dict[str, str]]:
    """The rows of the committed file."""
    return read_rows(RESULTS)


def main() -> None:
    """Time all ways, show and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="3 rounds, nothing written")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else arguments.rounds
    times = interleaved_times(ways(), rounds=rounds)
    rows = []
    for name, seconds in times.items():
        median, low, high = spread(seconds)
        pairs = zip(seconds, times[YARDSTICK], strict=True)
        ratio = statistics.median(mine / theirs for mine, theirs in pairs)
        rows.append(
            {
                "way": name,
                "ms": round(median, 2),
                "low_ms": round(low, 2),
                "high_ms": round(high, 2),
                "by torch.func": round(ratio, 3),
                "rounds": rounds,
                **conditions(torch.device("cpu")),
            }
        )
        print(f"{name:26} {median:8.1f} ms ({low:.1f}–{high:.1f})  {ratio:.3f} × torch.func")
    if not arguments.quick:
        write_rows(RESULTS, rows)
        place("per_sample", table(rows))


if __name__ == "__main__":
    main()
