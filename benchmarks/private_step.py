"""How much a private training step costs: ours beside Opacus and beside torch's plain step.

    python benchmarks/private_step.py            about 5 minutes
    python benchmarks/private_step.py --quick    fewer rounds, to see that it works

Opacus is a peer, no dependency: ``pip install opacus==1.6.0`` beforehand; without it its rows are left out.
Every way trains the article's network (``model=seed_cnn``) on the same random batch of 128 images in
channels_last, all in one process, in interleaved rounds: zero_grad, forward, loss, backward, clipping and
noise, Adam. The plain step is torch's own in float32, which is the yardstick of the private ones. Memory is
that of a process of its own, its peak above what it had after the imports.

Writes benchmarks/results/private_step.csv with conditions.
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnexp.models import SeedCNN
from cnnexp.nn import CrossEntropyLoss, replace_layers
from cnnexp.privacy import Clipping, PrivateGradient, SecureNoise, SeededNoise
from cnnexp.speed.result import conditions, spread
from cnnexp.tuning.timing import interleaved_times

RESULTS = Path(__file__).resolve().parent / "results" / "private_step.csv"
BATCH, CLIP, NOISE = 128, 1.0, 1.0
OPACUS_MODES = ("hooks", "ew", "functorch", "ghost")
Step = Callable[[], None]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return SeedCNN().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 1, 28, 28, generator=generator)
    return images.contiguous(memory_format=torch.channels_last), torch.arange(BATCH) % 10


def plain(backward: str) -> Step:
    """A step without privacy, by torch or by an algorithm of ours."""
    network, (images, labels) = _network(), _batch()
    loss: nn.Module = nn.CrossEntropyLoss()
    if backward != "torch":
        network, loss = replace_layers(network, backward, quiet=True), CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss(network(images), labels).backward()
        optimizer.step()

    return step


def ours(backward: str, *, secure: bool = True) -> Step:
    """A private step of ours."""
    network, (images, labels) = replace_layers(_network(), backward, quiet=True), _batch()
    optimizer, loss = torch.optim.Adam(network.parameters()), CrossEntropyLoss()
    gradient = PrivateGradient(
        Clipping(CLIP),
        noise_multiplier=NOISE,
        expected=BATCH,
        noise=SecureNoise() if secure else SeededNoise(0),
    )
    count = iter(range(1 << 30))

    def step() -> None:
        gradient.begin(network, BATCH)
        gradient.scaled(loss(network(images), labels), BATCH).backward()
        gradient.finish(network, next(count))
        optimizer.step()

    return step


def opacus(mode: str) -> Step:
    """A private step of Opacus."""
    samples = import_module("opacus.grad_sample")
    fast = import_module("opacus.utils.fast_gradient_clipping_utils")
    optimizers = import_module("opacus.optimizers")
    network, (images, labels) = _network(), _batch()
    settings = {
        "noise_multiplier": NOISE,
        "max_grad_norm": CLIP,
        "expected_batch_size": BATCH,
    }
    if mode == "ghost":
        watched = samples.GradSampleModuleFastGradientClipping(
            network, max_grad_norm=CLIP, use_ghost_clipping=True
        )
        adam = torch.optim.Adam(watched.parameters())
        optimizer = optimizers.DPOptimizerFastGradientClipping(adam, **settings)
        criterion = fast.DPLossFastGradientClipping(watched, optimizer, nn.CrossEntropyLoss())

        def step() -> None:
            optimizer.zero_grad()
            criterion(watched(images), labels).backward()
            optimizer.step()

        return step
    options = {"force_functorch": True} if mode == "functorch" else {}
    kind = "GradSampleModuleExpandedWeights" if mode == "ew" else "GradSampleModule"
    watched = getattr(samples, kind)(network, **options)
    optimizer = optimizers.DPOptimizer(torch.optim.Adam(watched.parameters()), **settings)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(watched(images), labels).backward()
        optimizer.step()

    return step


def ways() -> dict[str, Callable[[], Step]]:
    """By name, what makes each way's step."""
    found: dict[str, Callable[[], Step]] = {
        "torch plain": lambda: plain("torch"),
        "cnnexp plain, fused": lambda: plain("fused"),
        "cnnexp private, fused": lambda: ours("fused"),
        "cnnexp private, fused, test noise": lambda: ours("fused", secure=False),
        "cnnexp private, direct": lambda: ours("direct"),
    }
    if find_spec("opacus") is not None:
        for mode in OPACUS_MODES:
            found[f"opacus {mode}"] = lambda mode=mode: opacus(mode)
    return found


def peak_memory(name: str) -> float:
    """MB that five steps of the way ``name`` take above the imports, in a process of its own."""
    run = subprocess.run(
        [sys.executable, __file__, "--memory", name], capture_output=True, text=True, check=True
    )
    return float(run.stdout.splitlines()[-1])


def _show_memory(name: str) -> None:
    if name.startswith("opacus"):
        import_module("opacus")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = ways()[name]()
    for _ in range(5):
        step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    """Time all ways, show and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--quick", action="store_true", help="5 rounds, nothing written")
    parser.add_argument("--memory", metavar="WAY", help="show the memory of one way alone")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")  # Opacus' own, of hooks and of secure mode
    if arguments.memory:
        return _show_memory(arguments.memory)
    rounds = 5 if arguments.quick else arguments.rounds
    steps = {name: make() for name, make in ways().items()}
    times = interleaved_times(steps, torch.device("cpu"), rounds=rounds)
    medians = {name: spread(each)[0] for name, each in times.items()}
    peers = [medians[name] for name in medians if name.startswith("opacus")]
    rows = []
    for name, each in times.items():
        median, low, high = spread(each)
        row = {
            "way": name,
            "ms": round(median, 2),
            "low_ms": round(low, 2),
            "high_ms": round(high, 2),
            "by torch plain": round(median / medians["torch plain"], 3),
            "by the fastest opacus": round(median / min(peers), 3) if peers else "",
            "peak_mb": round(peak_memory(name), 1),
            "rounds": rounds,
            "opacus": _version("opacus"),
            **conditions(torch.device("cpu")),
        }
        rows.append(row)
        print(
            f"{name:36} {median:8.2f} ms ({low:.2f}–{high:.2f})  {row['by torch plain']:6.3f} × torch plain"
            f"  {row['by the fastest opacus']} × opacus  {row['peak_mb']:7.1f} MB",
            flush=True,
        )
    if not arguments.quick:
        with RESULTS.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
