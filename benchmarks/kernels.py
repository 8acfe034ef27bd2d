"""What each CPU kernel of the fused block gains over the library's dense way, layer by layer.

    python benchmarks/kernels.py --csv benchmarks/results/kernels.csv       half a minute, on a quiet machine

The layers are those of the article's network (3×3, padding 1, then max-pooling by 2×2) and four of few
channels, batch 128, float32, channels_last; of the latter also the convolution alone in bfloat16, where the
processor multiplies pairs. For each kernel stands what it takes, what torch takes for the
same numbers, both medians of interleaved rounds (the squared norms of each image's ∂L/∂w stand beside torch's
∂L/∂w of the batch), and the floating-point operations that a dense sum would need, a second of the kernel.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import conv_relu_pool as cpu
from cnnexp.kernels.cpu import narrow, narrow_blocks
from cnnexp.kernels.cpu.narrow_pairs import has_pairs
from cnnexp.kernels.cpu.norms import winners_squared_norms
from cnnexp.kernels.cpu.winograd import forward_winograd, has_tiles
from cnnexp.speed.result import conditions, spread
from cnnexp.tuning.timing import interleaved_times


class Layer(NamedTuple):
    """A block of the network: channels in and out, and the side of the image."""

    c_in: int
    c_out: int
    side: int


LAYERS = (
    *(Layer(1, 32, 28), Layer(32, 64, 14), Layer(64, 128, 7), Layer(128, 256, 3)),
    *(Layer(1, 6, 28), Layer(3, 6, 32), Layer(8, 8, 28), Layer(8, 16, 14)),
)


def kernels(layer: Layer, batch: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """For each kernel of the layer the call of it, and the library's for the same numbers."""
    torch.manual_seed(0)
    last = torch.channels_last
    image = torch.randn(batch, layer.c_in, layer.side, layer.side).contiguous(memory_format=last)
    weight = torch.randn(layer.c_out, layer.c_in, 3, 3).contiguous(memory_format=last)
    bias = torch.randn(layer.c_out)
    conv = Conv2dGeometry((layer.side, layer.side), (3, 3), padding=(1, 1))
    pool = WindowGeometry(conv.output_size, (2, 2), (2, 2))
    output, code = cpu.forward(image, weight, bias, conv, pool, None)
    grad = torch.randn_like(output)
    spread_out = cpu.pool_spread(grad, code, pool, None)

    def pooled() -> Tensor:
        return F.max_pool2d(F.relu(F.conv2d(image, weight, bias, padding=1)), 2)

    def library_input() -> Tensor:
        return conv2d_input(list(image.shape), weight, spread_out, padding=1)

    def library_weight() -> Tensor:
        return conv2d_weight(image, weight.shape, spread_out, padding=1)  # pyright: ignore[reportArgumentType]

    rest = image, weight, bias, conv, pool
    made: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    if layer.c_in < cpu.FEW_CHANNELS:
        made["forward_few_channels"] = (lambda: cpu.forward_few_channels(*rest), pooled)
    elif has_tiles(conv, pool, layer.c_in, layer.c_out):
        made["forward_winograd"] = (lambda: forward_winograd(*rest), pooled)
    made["forward"] = (lambda: cpu.forward(*rest, None), pooled)
    made["winners_grad_weight"] = (
        lambda: cpu.winners_grad_weight(grad, code, image, conv, pool),
        library_weight,
    )
    made["winners_grad_input"] = (
        lambda: cpu.winners_grad_input(grad, code, weight, conv, pool),
        library_input,
    )
    made["winners_squared_norms"] = (
        lambda: winners_squared_norms(grad, code, image, conv, pool),
        library_weight,
    )
    if narrow.takes(image, conv, layer.c_in, layer.c_out):
        made |= _of_few_channels(rest, grad, code, (pooled, library_weight, library_input))
        if has_pairs(image.bfloat16()):
            made |= _of_pairs(image, weight, bias, conv)
    return made


def _of_pairs(
    image: Tensor, weight: Tensor, bias: Tensor, conv: Conv2dGeometry
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Those of the convolution alone in bfloat16."""
    image, weight, bias = image.bfloat16(), weight.bfloat16(), bias.bfloat16()
    grad = torch.randn_like(F.conv2d(image, weight, bias, padding=1))
    size, shape = list(image.shape), list(weight.shape)
    return {
        "bfloat16 narrow forward": (
            lambda: narrow.forward(image, weight, bias, conv),
            lambda: F.conv2d(image, weight, bias, padding=1),
        ),
        "bfloat16 narrow grad_weight": (
            lambda: narrow.grad_weight(grad, image, conv),
            lambda: conv2d_weight(image, shape, grad, padding=1),  # pyright: ignore[reportArgumentType]
        ),
        "bfloat16 narrow grad_input": (
            lambda: narrow.grad_input(grad, weight, conv),
            lambda: conv2d_input(size, weight, grad, padding=1),
        ),
    }


def _of_few_channels(
    block: tuple[Any, ...], grad: Tensor, code: Tensor, library: tuple[Callable[[], Any], ...]
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Those whose vectors run along the pixels; ∂L/∂w with ∂L/∂b."""
    image, weight, _, *records = block
    ours = {
        "narrow max_forward": lambda: narrow_blocks.max_forward(*block),
        "narrow max_grad_weight": lambda: narrow_blocks.max_grad_weight(
            grad, code, image, *records
        ),
        "narrow max_grad_input": lambda: narrow_blocks.max_grad_input(grad, code, weight, *records),
    }
    return {
        name: (call, theirs) for (name, call), theirs in zip(ours.items(), library, strict=True)
    }


def measure(layers: tuple[Layer, ...], batch: int, rounds: int) -> list[dict[str, Any]]:
    """One row a kernel and layer."""
    rows = []
    for layer in layers:
        for name, (ours, theirs) in kernels(layer, batch).items():
            times = interleaved_times({"kernel": ours, "torch": theirs}, rounds=rounds)
            (kernel, low, high), (library, *_) = spread(times["kernel"]), spread(times["torch"])
            dense = 2 * batch * layer.c_out * layer.c_in * 9 * layer.side**2
            rows.append(
                {
                    "layer": f"{layer.c_in}→{layer.c_out}, {layer.side}×{layer.side}, batch {batch}",
                    "kernel": name,
                    "kernel_ms": round(kernel, 3),
                    "low_ms": round(low, 3),
                    "high_ms": round(high, 3),
                    "torch_ms": round(library, 3),
                    "ratio": round(kernel / library, 3),
                    "dense_gflops": round(dense / kernel / 1e6, 1),
                    "rounds": rounds,
                }
            )
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--csv", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    rows = measure(LAYERS, options.batch, options.rounds)
    for row in rows:
        print(
            f"{row['layer']:28} {row['kernel']:27} {row['kernel_ms']:8.3f} ms, torch "
            f"{row['torch_ms']:8.3f} ms: {row['ratio']:.2f} ×"
        )
    if options.csv is not None:
        under = conditions(torch.device("cpu"))
        with options.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [*rows[0], *under], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | under for row in rows)


if __name__ == "__main__":
    main()
