"""How much memory a step needs that computes again instead of keeping, and what that costs in time.

    python benchmarks/recompute.py            ten networks of torchvision, about 20 minutes
    python benchmarks/recompute.py resnet18   some of them, nothing written
    python benchmarks/recompute.py --csv      only the table, from the committed file

Each network takes 32 random images of 64×64, as ``python -m cnnexp.bench step --recompute`` does it
(zero_grad, forward, loss, backward, Adam): torch in both layouts and precisions, ``auto``, and ``auto`` with
``recompute=True``, in interleaved rounds of one process, which keeps freed memory (``cnnexp.kept_memory``).
"Kept" is what the forward saves for the backward, each memory counted once, without the parameters, by what
torch saves in the same precision with channels_last. Without instructions for bfloat16 all is in float32.

Writes benchmarks/results/recompute.csv with conditions; docs/pytorch.md shows it as a table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from published import RESULTS, place, read_rows

NETWORKS = (
    *("mobilenet_v2", "efficientnet_b0", "vgg11_bn", "mobilenet_v3_small", "densenet121"),
    *("resnet18", "resnet50", "shufflenet_v2_x0_5", "regnet_y_400mf", "resnext50_32x4d"),
)
FILE = RESULTS / "recompute.csv"
BATCH, SIZE = 32, 64
# torch's way whose bytes ours are compared with, ``auto``, and ``auto`` that recomputes
FLOAT32 = ("torch channels_last", "cnnexp auto", "cnnexp recompute, auto")
BFLOAT16 = ("torch bfloat16", "cnnexp auto, bfloat16", "cnnexp recompute, auto, bfloat16")

Row = Mapping[str, str]


def measured(name: str, rounds: int) -> list[Any]:
    """The rows of the network ``name``."""
    import torch

    from cnnexp.speed import bench_step

    return bench_step(
        name,
        BATCH,
        ("auto",),
        device=torch.device("cpu"),
        size=SIZE,
        rounds=rounds,
        with_compile=False,
        with_recompute=True,
    )


def write(rows: Sequence[Any]) -> None:
    """Replace the file."""
    import torch

    from cnnexp import speed

    speed.write_results(rows, speed.conditions(torch.device("cpu")), None, FILE)


def kept(of: Mapping[str, Row], ways: Sequence[str]) -> list[float]:
    """What ``auto`` keeps by torch's bytes, and what it keeps that recomputes."""
    theirs, *ours = (float(of[way]["saved_mb"]) for way in ways)
    return [each / theirs for each in ours]


def by_network(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """The rows of each network by their ways."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["what"].split(",")[0].removeprefix("step "), {})[row["way"]] = row
    return found


def table(rows: Sequence[Row]) -> str:
    """The Markdown table of the file's rows: a line a network, with their conditions."""
    if not rows:
        return "Not measured yet: `python benchmarks/recompute.py`."
    networks = by_network(rows)
    mixed = all(BFLOAT16[-1] in of for of in networks.values())
    names = ["float32, `auto`", "recompute", *(["bfloat16, `auto`", "recompute"] if mixed else [])]
    lines = [
        f"| network | {' | '.join(names)} | time by `auto` | by torch's best |",
        "| --- " * (len(names) + 3) + "|",
    ]
    for name, of in networks.items():
        shares = kept(of, FLOAT32) + (kept(of, BFLOAT16) if mixed else [])
        times = {way: float(row["full_ms"]) for way, row in of.items()}
        own = BFLOAT16 if mixed else FLOAT32
        best = min(time for way, time in times.items() if way.startswith("torch"))
        cells = [*shares, times[own[2]] / times[own[1]], times[own[2]] / best]
        lines.append(f"| {name} | {' | '.join(f'{each:.2f}' for each in cells)} |")
    of = rows[0]
    lines += [
        "",
        f"By `python benchmarks/recompute.py`: {BATCH} images of {SIZE}×{SIZE}, {of['rounds']} interleaved "
        f"rounds; times in {'bfloat16' if mixed else 'float32'}, torch's best of its two layouts"
        f"{' and both precisions' if mixed else ''}; {of['date']}; {of['processor']}, {of['threads']} "
        f"threads; cnnexp {of['cnnexp']}, torch {of['torch']}, Python {of['python']}.",
    ]
    return "\n".join(lines)


def _flat(rows: Sequence[Any]) -> list[dict[str, str]]:
    """As they will be read from the file."""
    import torch

    from cnnexp import speed

    flat = speed.flat_rows(rows, speed.conditions(torch.device("cpu")))
    return [{name: str(value) for name, value in row.items()} for row in flat]


def main() -> None:
    """Measure the networks, show and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="network", help="any of torchvision's")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--csv", action="store_true", help="only the table, from the file")
    options = parser.parse_args()
    if options.csv:
        place("recompute", table(read_rows(FILE)))
        return
    # what ``auto`` chose on this machine before, maybe while others used it, is not asked
    os.environ["CNNEXP_CACHE"] = tempfile.mkdtemp(prefix="cnnexp-recompute-")
    from cnnexp.kept_memory import keep_freed_memory

    keep_freed_memory()
    rows: list[Any] = []
    for name in options.networks or NETWORKS:
        rows += measured(name, options.rounds)
        print(table(_flat(rows)), flush=True)
    if not options.networks:
        write(rows)
        place("recompute", table(read_rows(FILE)))


if __name__ == "__main__":
    main()
