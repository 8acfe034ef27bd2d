"""What several processes gain on paper, and by measurement: all-reduce against step time over gloo.

    python benchmarks/scaling.py          about a minute on two cores
    python benchmarks/scaling.py --csv    only the table, from the committed file

The article's network (``backward=fused``), one batch of 128 images that the processes share, one thread each.
A step is forward, backward, one all-reduce of all gradients in one tensor, SGD. Three constants are measured:
the step's time without the all-reduce by one process alone, on 128, 64 and 32 images; and latency and
bandwidth of the all-reduce of two processes, fitted to sizes from 4 KB to 16 MB. From these follow, for n
processes,

    all-reduce(n) = 2 (n − 1) · latency + 2 (n − 1) / n · bytes / bandwidth · share    (a ring)
    step(n)       = step of 128/n images alone · share + all-reduce(n)

with share = max(1, n / cores), and the measurements of 2 and 4 processes stand beside them. Writes
benchmarks/results/scaling.csv, and the table between ``<!-- scaling -->`` and ``<!-- end -->`` of
docs/scaling-out.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from accuracy import read, write
from published import place

from cnnexp.kernels.threads import use_threads
from cnnexp.models import SeedCNN
from cnnexp.nn import replace_layers
from cnnexp.speed.result import conditions, spread

BATCH, PROCESSES = 128, (1, 2, 4)
SIZES = (4_000, 64_000, 256_000, 1_000_000, 4_000_000, 16_000_000)  # bytes
Times = dict[str, list[float]]


def network() -> nn.Module:
    """The article's network with our backward."""
    torch.manual_seed(0)
    return replace_layers(SeedCNN(), "fused", quiet=True)


def gradient_bytes() -> int:
    """The bytes of all gradients of the article's network."""
    return sum(each.nbytes for each in network().parameters())


def work(rank: int, processes: int, rounds: int, meeting: str, answer: str) -> None:
    """Time all-reduces and steps as one of ``processes``; the first saves the seconds of each round."""
    use_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes
    )
    times: Times = {}
    if processes > 1:
        for size in sorted({*SIZES, gradient_bytes()}):
            tensor = torch.zeros(size // 4)
            times[f"all-reduce {size}"] = _seconds(lambda: dist.all_reduce(tensor), rounds)  # noqa: B023
    for count in sorted(
        {BATCH // each for each in PROCESSES} if processes == 1 else {BATCH // processes}
    ):
        step = _step(count, processes)
        times[f"step {count}"] = _seconds(step, rounds)
    dist.destroy_process_group()
    if rank == 0:
        torch.save(times, answer)


def _step(count: int, processes: int) -> Any:
    own = network()
    images, labels = torch.rand(count, 1, 28, 28), torch.arange(count) % 10
    optimizer = torch.optim.SGD(own.parameters(), 0.01)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(own(images), labels).backward()
        gradients = [each.grad for each in own.parameters() if each.grad is not None]
        if processes > 1:
            _reduce(gradients, processes)
        optimizer.step()

    return step


def _reduce(gradients: Sequence[Tensor], processes: int) -> None:
    flat = torch.cat([each.flatten() for each in gradients])
    dist.all_reduce(flat)
    parts = flat.div_(processes).split([each.numel() for each in gradients])
    for each, part in zip(gradients, parts, strict=True):
        each.copy_(part.view_as(each))


def _seconds(action: Any, rounds: int) -> list[float]:
    for _ in range(3):
        action()
    times = []
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return times


def measured(processes: int, rounds: int) -> Times:
    """The seconds of each round of each thing, by ``processes`` that work together."""
    with tempfile.TemporaryDirectory(prefix="cnnexp-scaling-") as folder:
        meeting, answer = Path(folder) / "meeting", Path(folder) / "times.pt"
        arguments = (processes, rounds, str(meeting), str(answer))
        torch.multiprocessing.start_processes(
            work, arguments, nprocs=processes, start_method="spawn"
        )
        return torch.load(answer)


def fitted(seconds: Mapping[int, float]) -> tuple[float, float]:
    """(latency in seconds, bandwidth in bytes a second) of the ring of two, by the times of sizes in bytes.

    The line that has the least sum of squared relative errors.
    """
    sizes = torch.tensor(list(seconds), dtype=torch.float64)
    times = torch.tensor(list(seconds.values()), dtype=torch.float64)
    columns = torch.stack([2 / times, sizes / times], 1)
    solved = torch.linalg.lstsq(columns, torch.ones_like(times)[:, None]).solution[:, 0]
    return max(0.0, solved[0].item()), 1 / solved[1].item()


def predicted_reduce(
    processes: int, size: int, latency: float, bandwidth: float, cores: int
) -> float:
    """The seconds of an all-reduce of ``size`` bytes, as the module says; 0 for one process."""
    share = max(1.0, processes / cores)
    moved = 2 * (processes - 1) / processes * size
    return 2 * (processes - 1) * latency + moved / bandwidth * share


def rows_of(times: Mapping[int, Times], cores: int) -> list[dict[str, str]]:
    """The rows of the file: each measurement, and what the model says of it where it is no constant."""
    medians = {
        n: {name: statistics.median(found) for name, found in each.items()}
        for n, each in times.items()
    }
    pairs = {int(k.split()[1]): v for k, v in medians[2].items() if k.startswith("all-reduce")}
    latency, bandwidth = fitted(pairs)
    alone = {int(k.split()[1]): v for k, v in medians[1].items()}
    about = conditions(torch.device("cpu")) | {"threads": 1, "cores": cores}
    rows = []
    for n, each in times.items():
        for name, found in each.items():
            kind, number = name.split()
            guess = predicted_reduce(n, gradient_bytes(), latency, bandwidth, cores)
            if kind == "all-reduce":
                guess = predicted_reduce(n, int(number), latency, bandwidth, cores)
            else:
                guess += alone[int(number)] * max(1.0, n / cores)
            middle, low, high = spread(found)
            row = {"kind": kind, "processes": n, "size": number, "ms": round(middle, 4)}
            row |= {"low_ms": round(low, 4), "high_ms": round(high, 4)}
            row["predicted_ms"] = "" if n == 1 else round(1e3 * guess, 4)
            row |= {"latency_us": round(1e6 * latency, 2), "gb_s": round(bandwidth / 1e9, 4)}
            rows.append({k: str(v) for k, v in (row | {"rounds": len(found)} | about).items()})
    return rows


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The Markdown table: measurement and prediction of all-reduces and steps, and the conditions."""
    if not rows:
        return "Not measured yet: `python benchmarks/scaling.py`."
    lines = [
        "| what | processes | measured, ms (quartiles) | predicted, ms |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        unit = "images each" if row["kind"] == "step" else "bytes"
        what = f"{row['kind']}, {int(row['size']):,} {unit}"
        ms = f"{float(row['ms']):.2f} ({float(row['low_ms']):.2f}–{float(row['high_ms']):.2f})"
        guess = f"{float(row['predicted_ms']):.2f}" if row["predicted_ms"] else "constant"
        lines.append(f"| {what} | {row['processes']} | {ms} | {guess} |")
    of = rows[0]
    lines += [
        "",
        f"Made by `python benchmarks/scaling.py`: gloo, one thread a process, {of['cores']} cores, "
        f"{of['rounds']} rounds; latency {of['latency_us']} µs and bandwidth {of['gb_s']} GB/s are fitted to "
        f"the all-reduces of two processes; {of['date']}; {of['processor']}; cnnexp {of['cnnexp']}, torch "
        f"{of['torch']}, Python {of['python']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--csv", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.csv:
        times = {n: measured(n, options.rounds) for n in PROCESSES}
        write("scaling", rows_of(times, os.cpu_count() or 1))
    made = table(read("scaling"))
    place("scaling", made)
    print(made)


if __name__ == "__main__":
    main()
