"""What a step of training gains where freed memory is kept (``cnnexp.kept_memory``), as all commands keep it.

    python benchmarks/kept_memory.py                six networks, some 6 minutes
    python benchmarks/kept_memory.py resnet50       one of them, nothing written
    python benchmarks/kept_memory.py --csv          only the table, from the committed file

Whole steps (forward, loss, backward, Adam) by torch's own backward, channels_last, in bfloat16 where the
processor multiplies in it; each way in a process of its own, since a process cannot take it back, and the
ways take turns. Writes benchmarks/results/kept_memory.csv with conditions, and the table in the docs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from published import RESULTS, place, read_rows, write_rows

# height and width of the images, and how many
NETWORKS = {
    "seed_cnn": (28, 128),
    "resnet18": (64, 32),
    "resnet50": (64, 32),
    "mobilenet_v2": (64, 32),
    "densenet121": (64, 32),
    "vgg11": (64, 32),
}
RETURNED, KEPT = "returned", "kept"
STEPS, WARM_UP, ROUNDS = 15, 4, 3
FILE = RESULTS / "kept_memory.csv"


def one_process(name: str, way: str) -> dict[str, Any]:
    """The seconds of each step of the network ``name``, and the most memory that the process held."""
    if way == KEPT:
        from cnnexp.kept_memory import keep_freed_memory

        keep_freed_memory()
    import torch

    from cnnexp.speed import conditions
    from cnnexp.speed.networks import network_named
    from cnnexp.tuning import multiplies_bfloat16

    size, batch = NETWORKS[name]
    known, device = network_named(name), torch.device("cpu")
    torch.manual_seed(0)
    network = known.make(size).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = torch.rand(batch, known.channels, size, size).to(memory_format=torch.channels_last)
    labels, halved = torch.randint(10, (batch,)), multiplies_bfloat16(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    times = []
    for _ in range(WARM_UP + STEPS):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begin)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    precision = "bfloat16" if halved else "float32"
    about = {"precision": precision, "peak_mb": peak / 1e3, **conditions(device)}
    return {"times": times[WARM_UP:], **about}


def measured(name: str) -> list[dict[str, Any]]:
    """A row for each way of the network ``name``."""
    found: dict[str, list[dict[str, Any]]] = {RETURNED: [], KEPT: []}
    for _ in range(ROUNDS):
        for way, each in found.items():
            command = [sys.executable, __file__, name, "--way", way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            each.append(json.loads(done.stdout))
    rows = []
    for way, each in found.items():
        medians = [1e3 * statistics.median(one["times"]) for one in each]
        about = {key: value for key, value in each[0].items() if key not in ("times", "peak_mb")}
        rows.append(
            {
                "network": name,
                "way": way,
                "ms": round(statistics.median(medians), 2),
                "low_ms": round(min(medians), 2),
                "high_ms": round(max(medians), 2),
                "peak_mb": round(statistics.median(one["peak_mb"] for one in each)),
                "rounds": ROUNDS,
                "steps": STEPS,
                **about,
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table of the file's rows, with their conditions."""
    if not rows:
        return "Not measured yet: `python benchmarks/kept_memory.py`."
    lines = [
        "| network | step in ms, memory returned | kept | ratio | most memory, MB | kept |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        size, batch = NETWORKS[one["network"]]
        ms = [
            f"{float(r['ms']):.1f} ({float(r['low_ms']):.1f}–{float(r['high_ms']):.1f})"
            for r in (one, other)
        ]
        ratio = f"{float(other['ms']) / float(one['ms']):.2f}"
        peaks = [f"{float(row['peak_mb']):,.0f}" for row in (one, other)]
        cells = [f"`{one['network']}`, {size}×{size}, batch {batch}", *ms, ratio, *peaks]
        lines.append(f"| {' | '.join(cells)} |")
    of = rows[0]
    lines += [
        "",
        f"Made by `python benchmarks/kept_memory.py`: median (least–greatest) of {of['rounds']} processes, "
        f"each the median of {of['steps']} steps in {of['precision']}; {of['date']}; {of['processor']}, "
        f"{of['threads']} threads; Python {of['python']}, torch {of['torch'].partition('+')[0]}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure the networks, show and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="network", help=", ".join(NETWORKS))
    parser.add_argument("--way", choices=(RETURNED, KEPT), help=argparse.SUPPRESS)
    parser.add_argument("--csv", action="store_true", help="only the table, from the file")
    options = parser.parse_args()
    if unknown := [name for name in options.networks if name not in NETWORKS]:
        parser.error(f"unknown network '{unknown[0]}'; known: {', '.join(NETWORKS)}")
    if options.way:
        print(json.dumps(one_process(options.networks[0], options.way)))
        return
    if not options.csv:
        rows: list[dict[str, Any]] = []
        for name in options.networks or NETWORKS:
            rows += measured(name)
            print(table(rows[-2:]), flush=True)
        if options.networks:
            return
        write_rows(FILE, rows)
    place("kept_memory", table(read_rows(FILE)))


if __name__ == "__main__":
    main()
