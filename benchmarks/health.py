"""What the verdict says of trainings that are healthy and of those that are not, on real MNIST.

    python benchmarks/health.py             recipes and demonstrations of conf/experiment, three seeds each
    python benchmarks/health.py --table     train nothing: from the runs that are done
    python benchmarks/health.py --pictures  and draw the demonstrations for the README

Writes benchmarks/results/health.csv, and the table between ``<!-- health -->`` and ``<!-- end -->`` of
docs/diagnostics.md. tests/test_results.py holds the shipped recipes to it: no verdict on those, the right
one on the demonstrations.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from published import place, read_rows, write_rows

from cnnexp.diagnostics import Thresholds
from cnnexp.runs import RunFolder, config_hash

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "results" / "health.csv"
DOCUMENT = ROOT / "docs" / "diagnostics.md"
EXPERIMENTS = (
    *("article", "best"),
    *("vanishing", "vanishing_cured"),
    *("exploding", "exploding_cured"),
    *("overfitting", "overfitting_cured"),
)
SEEDS = (0, 1, 2)


def overrides(experiment: str) -> list[str]:
    """The command line of ``experiment``, without name and seeds."""
    return [f"experiment={experiment}", "data.fallback=error"]


def train() -> None:
    """Run every job that is not done yet, one sweep an experiment; those of ``exploding`` fail."""
    for name in EXPERIMENTS:
        command = [sys.executable, "-m", "cnnexp.train", "-m", *overrides(name)]
        command += [f"name=health-{name}", f"seed={','.join(map(str, SEEDS))}"]
        code = subprocess.run(command).returncode
        if code not in (0, 1):
            raise SystemExit(code)


def collect(root: Path) -> list[dict[str, str]]:
    """The verdict and the conditions of every job that is over, as the rows of the file."""
    rows = []
    for name in EXPERIMENTS:
        for run in _runs(root, name):
            status, result, origin = run.read_status(), run.read_result(), run.read_provenance()
            if status["state"] not in ("done", "failed"):
                continue
            config = run.read_config()
            verdicts = result.get("health", status.get("health", []))
            row = {
                "experiment": name,
                "seed": config["seed"],
                "state": status["state"],
                "verdict": "; ".join(v["trouble"] for v in verdicts),
                "layer": "; ".join(v["layer"] for v in verdicts),
                "since": "; ".join(str(v["since"]) for v in verdicts),
                "evidence": "; ".join(v["evidence"] for v in verdicts),
                **margins(run),
                "val/acc": result.get("val/acc", ""),
                "test/acc": result.get("test/acc", ""),
                "config_hash": config_hash(config),
                "date": origin["time"][:10],
                "commit": (origin["git"] or {}).get("commit", ""),
            }
            row |= {key: origin[key] for key in ("processor", "threads", "python")}
            row |= {key: origin["versions"][key] for key in ("cnnexp", "torch", "lightning")}
            rows.append({key: str(cell) for key, cell in row.items()})
    return rows


def margins(run: RunFolder) -> dict[str, str]:
    """How near the run came to the thresholds of vanishing, dead and exploding, over all measurements.

    The least share of the last layer's ‖∂L/∂a‖ that reached a layer, the greatest share of dead units,
    and how many times the greatest of the first five ‖∂L/∂θ‖ before it one was.
    """
    rows = [row for row in run.read_metrics() if math.isfinite(row["value"])]
    arrived: dict[int, dict[str, float]] = {}
    for row in rows:
        kind, _, rest = row["name"].partition("/")
        layer, _, figure = rest.rpartition("/")
        if (kind, figure) == ("grad", "activation"):
            arrived.setdefault(row["step"], {})[layer] = row["value"]
    last = _layers({row["name"] for row in rows})[-1]
    shares = [min(step.values()) / step[last] for step in arrived.values() if step.get(last)]
    dead = [row["value"] for row in rows if row["name"].endswith("/dead")]
    norms = [row["value"] for row in rows if row["name"] == "grad/norm"]
    return {
        "least_share": f"{min(shares):.2g}",
        "most_dead": f"{max(dead):.2g}",
        "growth": f"{max(norms[i] / max(norms[: min(i, 5)]) for i in range(1, len(norms))):.3g}",
    }


def table(rows: Sequence[dict[str, str]]) -> str:
    """The Markdown table, an experiment a row, and how far from the thresholds the healthy runs stayed."""
    lines = [
        "| `experiment=` | verdict, by seed | since | test accuracy |",
        "| --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["experiment"] for row in rows):
        own = [row for row in rows if row["experiment"] == name]
        said = [_said(row) for row in own]
        verdict = said[0] + f" (all {len(own)})" if len(set(said)) == 1 else "; ".join(said)
        unit = "epoch" if "overfitting" in own[0]["verdict"] else "step"
        since = "; ".join(row["since"].replace(";", ",") for row in own if row["since"])
        lines.append(
            f"| `{name}` | {verdict} | {unit + ' ' + since if since else '–'} | {_accuracy(own)} |"
        )
    healthy = [row for row in rows if not row["verdict"]]
    least = min(float(row["least_share"]) for row in healthy)
    dead, growth = (max(float(row[key]) for row in healthy) for key in ("most_dead", "growth"))
    limits = Thresholds()
    text = (
        f"Of the {len(healthy)} runs without a verdict, the least share of the last layer's gradient that "
        f"reached a layer was {least:.2g} (`vanishing`: {limits.vanishing:g}), the greatest share of dead "
        f"units {dead:.2g} (`dead`: {limits.dead:g}), the largest growth of the gradient {growth:.0f}-fold "
        f"(`growth`: {limits.growth:g})."
    )
    lines += ["", *textwrap.wrap(text, 120)]
    return "\n".join(lines)


def _said(row: dict[str, str]) -> str:
    if not row["verdict"]:
        return "none"
    pairs = zip(row["verdict"].split("; "), row["layer"].split("; "), strict=True)
    return ", then ".join(name + (f" in `{layer}`" if layer else "") for name, layer in pairs)


def _accuracy(rows: Sequence[dict[str, str]]) -> str:
    found = [100 * float(row["test/acc"]) for row in rows if row["test/acc"]]
    if not found:
        return "– (the loss is no number)"
    if len(found) < len(rows):
        return f"{', '.join(f'{x:.2f} %' for x in found)} (of the others the loss is no number)"
    spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.2f}{spread} %"


def read() -> list[dict[str, str]]:
    """The rows of the committed file."""
    return read_rows(FILE)


def _runs(root: Path, name: str) -> list[RunFolder]:
    """Those of an experiment, by seed."""
    found = [RunFolder(f.parent) for f in (root / f"health-{name}").glob("*/status.json")]
    return sorted(found, key=lambda run: run.read_config()["seed"])


def _curve(run: RunFolder, name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in run.read_metrics() if row["name"] == name]
    return [row["step"] for row in rows], [row["value"] for row in rows]


def vanishing_figure(root: Path) -> Figure:
    """The gradient's way through twenty layers, layers × time, sick and cured."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = ("sigmoid", "ReLU, He's init, batch norm")
    mesh = None
    for axis, name, title in zip(axes, ("vanishing", "vanishing_cured"), titles, strict=True):
        run = _runs(root, name)[0]
        names = {r["name"] for r in run.read_metrics()}
        layers = [f"grad/{layer}/activation" for layer in _layers(names)]
        steps, _ = _curve(run, layers[0])
        flow = [[math.log10(max(v, 1e-30)) for v in _curve(run, layer)[1]] for layer in layers]
        across = [*steps, steps[-1] + steps[1] - steps[0]]
        down = [0.5 + i for i in range(len(layers) + 1)]
        mesh = axis.pcolormesh(across, down, flow, vmin=-18, vmax=0, cmap="viridis")
        accuracy = run.read_result()["test/acc"]
        axis.set(title=f"{title}\ntest accuracy {accuracy:.1%}", xlabel="step")
    axes[0].set(ylabel="layer, the first above", yticks=[1, 5, 10, 15, 20])
    axes[0].invert_yaxis()
    assert mesh is not None
    figure.colorbar(mesh, ax=axes, label="log₁₀ ‖∂L/∂a‖")
    return figure


def _layers(names: set[str]) -> list[str]:
    """Those with a gradient, in the order of computing."""
    found = [name.split("/")[1] for name in names if name.endswith("/activation")]
    return sorted(found, key=lambda layer: int(layer.rpartition(".")[2]) if "." in layer else 1000)


def exploding_figure(root: Path) -> Figure:
    """‖∂L/∂θ‖ and the loss, step by step, with and without clipping."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, label, color in (
        ("exploding", "not clipped", "tab:red"),
        ("exploding_cured", "clipped to 1", "tab:blue"),
    ):
        for run in _runs(root, name):
            for axis, metric in zip(axes, ("grad/norm", "train/loss_step"), strict=True):
                steps, values = _curve(run, metric)
                kept = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
                axis.plot(*zip(*kept, strict=True), color=color)
        axes[0].plot([], [], color=color, label=label)
    for axis, title in zip(axes, ("‖∂L/∂θ‖ before clipping", "training loss"), strict=True):
        axis.set(title=title, xlabel="step", xscale="symlog", yscale="log")
    axes[0].legend()
    return figure


def overfitting_figure(root: Path) -> Figure:
    """Loss and accuracy by epoch, on training and validation images, without and with regularisation."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, label, color in (
        ("overfitting", "nothing", "tab:red"),
        ("overfitting_cured", "L2, dropout, shifts", "tab:blue"),
    ):
        for i, run in enumerate(_runs(root, name)):
            for part, line in (("train", ":"), ("val", "-")):
                for axis, metric in zip(axes, ("loss", "acc"), strict=True):
                    _, values = _curve(run, f"{part}/{metric}")
                    text = None if i else f"{label}, {part}"
                    axis.plot(range(1, len(values) + 1), values, line, color=color, label=text)
    axes[0].set(title="loss", xlabel="epoch", yscale="log")
    axes[1].set(title="accuracy", xlabel="epoch", ylim=(0.85, 1.005))
    axes[0].legend(fontsize=8)
    return figure


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description="the verdict on good and bad trainings")
    parser.add_argument("--table", action="store_true", help="from the runs that are done")
    parser.add_argument("--pictures", action="store_true", help="draw the demonstrations as well")
    parser.add_argument("--root", type=Path, default=Path("outputs/sweeps"), help="where these are")
    options = parser.parse_args()
    if not options.table:
        train()
    rows = collect(options.root)
    if not rows:
        parser.exit(1, f"no job is over in {options.root}\n")
    write_rows(FILE, rows)
    made = table(read())
    place("health", made)
    print(made)
    if options.pictures:
        pictures = ROOT / "docs" / "pictures"
        vanishing_figure(options.root).savefig(pictures / "vanishing.png", dpi=110)
        exploding_figure(options.root).savefig(pictures / "exploding.png", dpi=110)
        overfitting_figure(options.root).savefig(pictures / "overfitting.png", dpi=110)


if __name__ == "__main__":
    main()
