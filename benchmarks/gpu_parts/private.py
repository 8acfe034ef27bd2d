"""Private training on the device: norms by sample, clipped sums and noise, and what a step of it costs."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from cnnexp.models import LeNet5, ScatterLinear, SeedCNN, TanhCNN
from cnnexp.nn import replace_layers
from cnnexp.privacy import CLIPPINGS, Clipping, PrivateGradient, SeededNoise
from cnnexp.tuning.timing import interleaved_times
from gpu_parts.rows import Rows

__all__ = ["run"]

_CLIP = 0.1
_ALLOWED = 1e-4  # of float32 sums on a GPU, relative; TF32 would give 1e-3


def run(rows: Rows) -> None:
    """Every network and kind of clipping against ``torch.func`` in float64, then the step's time."""
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {"tanh_cnn": TanhCNN(), "lenet5": LeNet5()}
    if rows.on_gpu:
        networks |= {"seed_cnn": SeedCNN(), "scatter_linear": ScatterLinear()}
    for name, network in networks.items():
        for backward in ("torch", "direct", "fused"):
            made = network.to(rows.device).eval()
            if backward != "torch":
                replace_layers(made, backward)
            for kind in CLIPPINGS:
                for copies in (1, 2):
                    way = f"{backward} {kind}" + f", {copies} copies" * (copies > 1)
                    with rows.trying(f"clipped sums of {name}", way) as row:
                        error = _error(made, Clipping(_CLIP, kind), copies, rows.device)
                        row |= {"value": error, "unit": "relative error"}
                        if not error < _ALLOWED:
                            row |= {"state": "failed", "note": f"more than {_ALLOWED:g}"}
    _noise(rows)
    _time(rows)


def _batch(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (size,), generator=generator)
    return images.to(device), labels.to(device)


def _error(network: nn.Module, clipping: Clipping, copies: int, device: torch.device) -> float:
    """The greatest relative error of a parameter's clipped sum, against each image by itself in float64."""
    images, labels = _batch(6 * copies, device)
    tf32 = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    private = PrivateGradient(clipping, noise_multiplier=0, expected=6, noise=SeededNoise(0))
    private.begin(network, 6, copies)
    with torch.backends.cudnn.flags(allow_tf32=False):
        private.scaled(F.cross_entropy(network(images), labels), 6).backward()
    private.finish(network, 0)
    if tf32 != (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()):
        raise RuntimeError("the precision of products is not what it was before")
    wide = {n: p.detach().double() for n, p in network.named_parameters()}
    others = {n: b.double() if b.is_floating_point() else b for n, b in network.named_buffers()}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, {**parameters, **others}, image)
        return F.cross_entropy(logits, label)

    grouped = images.double().unflatten(0, (6, copies)), labels.unflatten(0, (6, copies))
    each = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=1)(wide, *grouped)
    expected = _clipped(each, network, clipping)
    worst = 0.0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        truth = expected[name]
        difference = (parameter.grad.double() - truth).norm() / truth.norm().clamp_min(1e-12)
        worst = max(worst, difference.item())
    return worst


def _clipped(each: dict[str, Tensor], network: nn.Module, clipping: Clipping) -> dict[str, Tensor]:
    """Σ c·g / 6 from the gradients by image, as the definition of the clipping has it."""
    layers: dict[str, list[str]] = {}
    for name, _ in network.named_parameters():
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    squares = torch.stack(
        [torch.stack([each[n].flatten(1).square().sum(1) for n in names]).sum(0)
         for names in layers.values()]
    )  # fmt: skip
    factors = clipping.factors(squares)
    return {
        name: torch.einsum("n,n...->...", factor, each[name]) / 6
        for factor, names in zip(factors, layers.values(), strict=True)
        for name in names
    }


def _noise(rows: Rows) -> None:
    with rows.trying("noise", "as on the CPU, to the bit") as row:
        found = []
        for device in (rows.device, torch.device("cpu")):
            gradients = [torch.zeros(64, 32, 3, 3, device=device), torch.zeros(10, device=device)]
            SeededNoise(3).add_(gradients, 0.37, step=5)
            found.append(torch.cat([g.flatten().cpu() for g in gradients]))
        differ = int((found[0] != found[1]).sum())
        row |= {"value": differ, "unit": "numbers that differ"}
        if differ:
            row["state"] = "failed"


def _time(rows: Rows) -> None:
    size = 1024 if rows.on_gpu else 4
    images, labels = _batch(size, rows.device)
    images = images.contiguous(memory_format=torch.channels_last)
    network = SeedCNN() if rows.on_gpu else TanhCNN()
    network = network.to(rows.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    private = PrivateGradient(
        Clipping(_CLIP), noise_multiplier=1, expected=size, noise=SeededNoise(0)
    )

    def plain() -> Any:
        network.zero_grad()
        F.cross_entropy(network(images), labels).backward()

    def with_privacy() -> Any:
        private.begin(network, size)
        private.scaled(F.cross_entropy(network(images), labels), size).backward()
        private.finish(network, 0)

    ways = {"torch, plain": plain, "private": with_privacy}
    with rows.trying(f"gradients of batch {size}", "in turn") as row:
        times = interleaved_times(ways, rows.device, rounds=7 if rows.on_gpu else 1)
        medians = {way: statistics.median(found) for way, found in times.items()}
    for way in ways if row["state"] == "ok" else ():
        ratio = medians[way] / medians["torch, plain"]
        rows.add(
            f"gradients of batch {size}", way, value=1e3 * medians[way], unit="ms", ratio=ratio
        )
