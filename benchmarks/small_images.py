"""What products that are nowhere laid out gain over the library's convolutions, by layer and precision.

    python benchmarks/small_images.py             half a minute, on a quiet machine
    python benchmarks/small_images.py --csv       only the table, from the file

The layers are those of ResNet-18 and ResNet-50 on images of 64×64, batch 32, channels_last. For each stands
what ``implicit_gemm`` takes for the output, ∂L/∂x and ∂L/∂w, beside the library, both medians of interleaved
rounds, and how many operations a second the kernels do, where a product of padding is none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from published import RESULTS, place, read_rows, write_rows
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.kernels.cpu import implicit
from cnnexp.kernels.cpu.bfloat16 import AVAILABLE
from cnnexp.kernels.cpu.implicit_tables import for_output
from cnnexp.speed.result import conditions, spread
from cnnexp.tuning.timing import interleaved_times

FILE = RESULTS / "small_images.csv"
BATCH, ROUNDS = 32, 51
PARTS = ("y", "∂L/∂x", "∂L/∂w")


class Layer(NamedTuple):
    """A convolution: channels in and out, the side of the image, that of the kernel, and the stride."""

    c_in: int
    c_out: int
    side: int
    kernel: int
    stride: int = 1

    @property
    def name(self) -> str:
        """As the table calls it."""
        step = f", stride {self.stride}" if self.stride > 1 else ""
        sides = f"{self.side}×{self.side}", f"{self.kernel}×{self.kernel}"
        return f"{self.c_in}→{self.c_out}, {sides[0]}, kernel {sides[1]}{step}"

    @property
    def geometry(self) -> Conv2dGeometry:
        """Padded so that stride 1 keeps the size."""
        size, kernel = (self.side, self.side), (self.kernel, self.kernel)
        padding = (self.kernel // 2, self.kernel // 2)
        return Conv2dGeometry(size, kernel, (self.stride, self.stride), padding)


LAYERS = (
    Layer(64, 64, 16, 3),
    Layer(128, 128, 8, 3),
    Layer(256, 256, 4, 3),
    Layer(256, 512, 4, 3, 2),
    Layer(512, 512, 2, 3),
    Layer(64, 256, 16, 1),
    Layer(512, 128, 8, 1),
    Layer(1024, 256, 4, 1),
    Layer(2048, 512, 2, 1),
)

Row = Mapping[str, Any]
Pair = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def calls(layer: Layer, dtype: torch.dtype) -> dict[str, Pair]:
    """For each part our call, and the library's for the same numbers."""
    torch.manual_seed(0)
    last, conv = torch.channels_last, layer.geometry
    image = torch.randn(BATCH, layer.c_in, layer.side, layer.side, dtype=dtype).to(
        memory_format=last
    )
    weight = torch.randn(layer.c_out, layer.c_in, *conv.kernel_size, dtype=dtype).to(
        memory_format=last
    )
    window: dict[str, Any] = {"stride": layer.stride, "padding": layer.kernel // 2}
    grad = torch.randn_like(F.conv2d(image, weight, **window))
    sizes: list[Any] = [list(image.shape), list(weight.shape)]
    return {
        "y": (
            lambda: implicit.forward(image, weight, None, conv),
            lambda: F.conv2d(image, weight, **window),
        ),
        "∂L/∂x": (
            lambda: implicit.grad_input(grad, weight, conv),
            lambda: conv2d_input(sizes[0], weight, grad, **window),
        ),
        "∂L/∂w": (
            lambda: implicit.grad_weight(grad, image, conv, False),
            lambda: conv2d_weight(image, sizes[1], grad, **window),
        ),
    }


def operations(layer: Layer) -> int:
    """Multiplications and additions of a part that are not of padding."""
    rows, terms = for_output(BATCH, layer.geometry)
    return 2 * rows.images * len(terms.entries) * layer.c_in * layer.c_out


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row a layer, precision and part."""
    made = []
    for dtype in (torch.float32, torch.bfloat16)[: 2 if AVAILABLE else 1]:
        for layer in LAYERS:
            for part, (ours, theirs) in calls(layer, dtype).items():
                times = interleaved_times({"ours": ours, "torch": theirs}, rounds=rounds)
                (own, low, high), (library, *_) = spread(times["ours"]), spread(times["torch"])
                row = {"layer": layer.name, "dtype": str(dtype).removeprefix("torch.")}
                row |= {"part": part, "ms": f"{own:.4f}", "low_ms": f"{low:.4f}"}
                row |= {"high_ms": f"{high:.4f}", "torch_ms": f"{library:.4f}"}
                row |= {"ratio": f"{own / library:.3f}"}
                row |= {"gflops": f"{operations(layer) / own / 1e6:.0f}", "rounds": str(rounds)}
                made.append(row | conditions(torch.device("cpu")))
                print(f"{layer.name:38} {row['dtype']:9} {part:6} {own:7.3f} ms, {row['ratio']} ×")
    return made


def table(rows: Sequence[Row]) -> str:
    """The Markdown table: milliseconds of the three parts, ours and torch's, and the operations a second."""
    head = ["layer", "precision", "y, ms (torch)", "∂L/∂x", "∂L/∂w", "/ torch", "GFLOP/s"]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, dtype in dict.fromkeys((row["layer"], row["dtype"]) for row in rows):
        parts = [row for row in rows if (row["layer"], row["dtype"]) == (name, dtype)]
        ours, torchs = (sum(float(row[key]) for row in parts) for key in ("ms", "torch_ms"))
        cells = [f"{float(row['ms']):.2f} ({float(row['torch_ms']):.2f})" for row in parts]
        rates = [int(row["gflops"]) for row in parts]
        lines.append(
            _line([name, dtype, *cells, f"{ours / torchs:.2f}", f"{min(rates)}–{max(rates)}"])
        )
    first = rows[0]
    about = (
        f"medians of {first['rounds']} interleaved rounds; {first['date']}; {first['processor']}, "
        f"{first['threads']} threads; Python {first['python']}, torch {first['torch'].partition('+')[0]}."
    )
    return "\n".join([*lines, "", f"Made by `python benchmarks/small_images.py`: {about}"])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--csv", action="store_true", help="only the table, from the file")
    options = parser.parse_args()
    if not options.csv:
        write_rows(FILE, measure(options.rounds))
    place("small_images", table(read_rows(FILE)))


if __name__ == "__main__":
    main()
