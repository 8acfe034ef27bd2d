"""How near the article's layers come to what the machine can do: its rates, and operations and bytes of each.

    attainable rate = min(peak rate, operations / bytes · bandwidth)        share = rate / attainable rate

Peak and bandwidth are measured, not taken from a data sheet. Bytes are those that must be moved if every
tensor is read or written once; caches that still hold a tensor may make a share larger than 1.

Source: Williams, Waterman & Patterson, "Roofline: an insightful visual performance model" (2009).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from cnnexp import ops
from cnnexp.speed.result import spread
from cnnexp.speed.scaled import Scaled
from cnnexp.tuning.timing import interleaved_times

__all__ = ["LAYERS", "bench_layers", "machine_rates", "peaks_of"]

DTYPES = ("float32", "bfloat16", "float64")
_SIDE, _IMAGES, _CHANNELS, _PIXELS = 512, 8, 256, 32  # matrices; the images of the convolutions
_COPIED = 256_000_000  # bytes: more than any cache holds
COPY = "copy"
TORCH, OURS = "torch channels_last", "cnnexp fused"
PARTS = ("forward", "∂L/∂x", "∂L/∂w")


class Layer(NamedTuple):
    """A convolution 3×3 of the article's network; its ReLU and pooling follow."""

    name: str
    c_in: int
    c_out: int
    size: int


LAYERS = tuple(
    Layer(f"layer {number}", c_in, c_out, size)
    for number, c_in, c_out, size in (
        (1, 1, 32, 28),
        (2, 32, 64, 14),
        (3, 64, 128, 7),
        (4, 128, 256, 3),
    )
)


class Work(NamedTuple):
    """Something to be timed.

    Attributes:
        run: Does it.
        operations: Multiplications and additions in it; 0 for a copy.
        moved: Bytes that it reads and writes at least.
    """

    run: Callable[[], object]
    operations: float
    moved: float


def machine_rates(device: torch.device, rounds: int = 5) -> list[Scaled]:
    """The rates of products of matrices and of two convolutions in each dtype, and of a large copy.

    Each row has the figure ``gflops``, billions of operations a second, or ``gb_s``, GB read and written a
    second; both are of the median time. The axis is ``machine``.
    """
    works: dict[tuple[str, str], Work] = {}
    for name in DTYPES:
        dtype = getattr(torch, name)
        matrix = torch.rand(_SIDE, _SIDE, device=device).to(dtype)
        product = Work(partial(torch.mm, matrix, matrix), 2 * _SIDE**3, 3 * matrix.nbytes)
        works[f"matrices {_SIDE}×{_SIDE}", name] = product
        images = _last(torch.rand(_IMAGES, _CHANNELS, _PIXELS, _PIXELS, device=device).to(dtype))
        for side in (1, 3):  # on images without padding, whose zeros a kernel may leave out
            weight = _last(torch.rand(_CHANNELS, _CHANNELS, side, side, device=device).to(dtype))
            outputs = _IMAGES * _CHANNELS * (_PIXELS - side + 1) ** 2
            moved = images.nbytes + weight.nbytes + outputs * images.element_size()
            works[f"{side}×{side} convolution", name] = Work(
                partial(F.conv2d, images, weight), 2 * outputs * _CHANNELS * side**2, moved
            )
    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    works[COPY, ""] = Work(partial(target.copy_, source), 0, 2 * _COPIED)
    times = interleaved_times({"/".join(k): w.run for k, w in works.items()}, device, rounds=rounds)
    rows = []
    for (what, name), work in works.items():
        row = _row(f"{what} {name}".strip(), "torch", times[f"{what}/{name}"], rounds)
        row.axis = "machine"
        seconds = row.milliseconds["full"] / 1e3
        if work.operations:
            row.figures = {"gflops": work.operations / seconds / 1e9}
        else:
            row.figures = {"gb_s": work.moved / seconds / 1e9}
        rows.append(row)
    return rows


def peaks_of(rows: Sequence[Scaled], dtype: str = "float32") -> tuple[float, float]:
    """The highest rate in ``dtype``, in operations a second, and the bandwidth, in bytes a second, among
    ``rows``, which :func:`machine_rates` gave.
    """
    rates = [row.figures["gflops"] for row in rows if row.what.endswith(dtype)]
    (bandwidth,) = (row.figures["gb_s"] for row in rows if row.what == COPY)
    return 1e9 * max(rates), 1e9 * bandwidth


def bench_layers(
    batch_size: int,
    machine: Sequence[Scaled],
    *,
    device: torch.device,
    rounds: int = 15,
) -> list[Scaled]:
    """Time forward, ∂L/∂x and ∂L/∂w of each layer of the article's network in float32.

    torch's are those of the convolution alone. Ours, in turns with them, are those of the block: convolution,
    bias, ReLU and pooling. Its gradients need the products of the windows' winners only, a quarter of the
    convolution's, and so many are counted. Each row of the axis ``roofline`` has the figures ``gflop``,
    ``mb``, ``gflops`` (the rate), ``attainable_gflops`` and ``share``.

    Args:
        batch_size: Images, ≥ 1.
        machine: What :func:`machine_rates` gave.
        device: The device to compute on.
        rounds: How often each is timed.
    """
    peak, bandwidth = peaks_of(machine)
    rows = []
    for layer in LAYERS:
        torch.manual_seed(0)
        works = _works(layer, batch_size, device)
        for part in PARTS:
            own = {way: each[part] for way, each in works.items() if part in each}
            if not own:
                continue
            times = interleaved_times({w: k.run for w, k in own.items()}, device, rounds=rounds)
            for way, work in own.items():
                row = _row(f"{layer.name} {part}", way, times[way], rounds)
                row.axis, row.images = "roofline", batch_size
                row.ratios = {TORCH: row.milliseconds["full"] / spread(times[TORCH])[0]}
                row.figures = _distance(work, row.milliseconds["full"] / 1e3, peak, bandwidth)
                rows.append(row)
    return rows


def _distance(work: Work, seconds: float, peak: float, bandwidth: float) -> dict[str, float]:
    rate = work.operations / seconds
    attainable = min(peak, work.operations / work.moved * bandwidth)
    return {
        "gflop": work.operations / 1e9,
        "mb": work.moved / 1e6,
        "gflops": rate / 1e9,
        "attainable_gflops": attainable / 1e9,
        "share": rate / attainable,
    }


def _works(layer: Layer, batch_size: int, device: torch.device) -> Mapping[str, Mapping[str, Work]]:
    """What each way does for each part; without ∂L/∂x in the first layer, whose input are the images."""
    x = _last(torch.rand(batch_size, layer.c_in, layer.size, layer.size, device=device))
    w = _last(torch.rand(layer.c_out, layer.c_in, 3, 3, device=device) - 0.5)
    b = torch.rand(layer.c_out, device=device)
    both = {TORCH: _of_torch(x, w, b), OURS: _of_ours(x, w, b)}
    left_out = {"∂L/∂x"} if layer.c_in == 1 else set()
    return {
        way: {part: work for part, work in works.items() if part not in left_out}
        for way, works in both.items()
    }


def _of_torch(x: Tensor, w: Tensor, b: Tensor) -> dict[str, Work]:
    y = F.conv2d(x, w, b, padding=1)
    g = torch.rand_like(y)
    operations = 2 * y.numel() * w[0].numel()
    moved = x.nbytes + w.nbytes + y.nbytes
    return {
        "forward": Work(lambda: F.conv2d(x, w, b, padding=1), operations, moved),
        "∂L/∂x": Work(lambda: conv2d_input(x.shape, w, g, padding=1), operations, moved),
        "∂L/∂w": Work(lambda: conv2d_weight(x, w.shape, g, padding=1), operations, moved),
    }


def _of_ours(x: Tensor, w: Tensor, b: Tensor) -> dict[str, Work]:
    block = partial(ops.conv_relu_pool, padding=1, algorithm="fused")
    pooled = block(x, w, b)
    g = torch.rand_like(pooled)
    dense = 2 * x[:, :1].numel() * w.numel()  # padding keeps height and width
    winners = 2 * pooled.numel() * w[0].numel()
    moved = x.nbytes + w.nbytes + pooled.nbytes + pooled.numel()  # and a code of one byte for each
    by = {}
    for part, by_input in (("∂L/∂x", True), ("∂L/∂w", False)):
        leaf = (x if by_input else w).detach().clone().requires_grad_()
        made = block(leaf, w, b) if by_input else block(x, leaf, b)
        run = partial(torch.autograd.grad, made, leaf, g, retain_graph=True)
        by[part] = Work(run, winners, moved)
    return {"forward": Work(lambda: block(x, w, b), dense, moved), **by}


def _row(what: str, way: str, times: Sequence[float], rounds: int) -> Scaled:
    middle, low, high = spread(times)
    return Scaled(what, way, {"full": middle}, low, high, rounds)


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
