"""Draw the pictures of docs/derivation.md: python docs/drawings.py

The numbers in them are computed by cnnexp; a test compares the committed files with what this makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from cnnexp import ops
from cnnexp.geometry.pooling import DEAD
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import conv_relu_pool as cpu

PICTURES = Path(__file__).parent / "pictures"
CELL = 34
PLAIN, WINDOW, SPREAD, DIM = "#eef1f6", "#ffd9a8", "#bfe3c0", "#fafafa"


def number(value: float) -> str:
    whole = int(value)
    half = "½" if value - whole == 0.5 else ""
    return f"{whole or ''}{half}" if half else f"{whole}".replace("-", "−")


def grid(
    x: int, y: int, rows: list[list[str]], title: str, marked: Iterable = (), fill: str = WINDOW
):
    """A table of cells with its title above; the cells (row, column) of ``marked`` are filled."""
    marked = set(marked)
    parts = [f'<text x="{x + len(rows[0]) * CELL / 2}" y="{y - 8}" class="title">{title}</text>']
    for i, row in enumerate(rows):
        for j, text in enumerate(row):
            color = fill if (i, j) in marked else PLAIN if text else DIM
            left, top = x + j * CELL, y + i * CELL
            parts.append(
                f'<rect x="{left}" y="{top}" width="{CELL}" height="{CELL}" fill="{color}"/>'
            )
            parts.append(f'<text x="{left + CELL / 2}" y="{top + CELL / 2 + 5}">{text}</text>')
    return parts


def cells(tensor: torch.Tensor) -> list[list[str]]:
    return [[number(v) for v in row] for row in tensor.tolist()]


def note(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}" class="note">{text}</text>'


def picture(name: str, width: int, height: int, title: str, parts: list[str]) -> tuple[str, str]:
    style = (
        "text{font:14px sans-serif;text-anchor:middle;fill:#1c2733}"
        "rect{stroke:#8a97a8}.title{font-weight:bold}.note{text-anchor:start}"
        ".page{fill:#ffffff;stroke:none}"
    )
    body = "\n".join([f'<rect class="page" width="{width}" height="{height}"/>', *parts])
    return name, (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img"><title>{title}</title>\n<style>{style}</style>\n{body}\n</svg>\n'
    )


def worked_example() -> tuple[str, str]:
    """One window forward, and the same window backward."""
    x = torch.arange(1.0, 10).reshape(1, 1, 3, 3).requires_grad_()
    w = torch.tensor([[[[1.0, 0], [-1, 2]]]], requires_grad=True)
    bias, g = torch.tensor([0.5]), torch.tensor([[[[1.0, 2], [3, 4]]]])
    y = ops.conv2d(x, w, bias)
    grad_x, grad_w = torch.autograd.grad(y, (x, w), g)
    window = [(0, 1), (0, 2), (1, 1), (1, 2)]
    only = torch.zeros_like(g)
    only[0, 0, 0, 1] = 2
    (share,) = torch.autograd.grad(ops.conv2d(x, w, bias), x, only)
    parts = [
        *grid(20, 50, cells(x[0, 0].detach()), "x", window),
        *grid(170, 67, cells(w[0, 0].detach()), "w"),
        *grid(290, 67, cells(y[0, 0].detach()), "y", [(0, 1)]),
        note(385, 85, "Forward: the window at the top right reads four"),
        note(385, 105, "numbers, 2·1 + 3·0 − 5·1 + 6·2 + ½ = 9½."),
        *grid(20, 225, cells(g[0, 0]), "g = ∂L/∂y", [(0, 1)]),
        *grid(140, 208, cells(share[0, 0]), "its share", window, SPREAD),
        *grid(290, 208, cells(grad_x[0, 0]), "∂L/∂x, all shares"),
        note(415, 225, "Backward: g = 2 goes back to where the window"),
        note(415, 245, "read, times what it was multiplied with: 2·w."),
        note(415, 265, "The shares of all four windows add up."),
        *grid(20, 385, cells(grad_w[0, 0]), "∂L/∂w"),
        note(110, 405, "Each weight collects g times what it was multiplied with:"),
        note(110, 425, "∂L/∂w[0, 0] = 1·1 + 2·2 + 3·4 + 4·5 = 37, g slid over x."),
    ]
    return picture("convolution.svg", 740, 470, "One window, forward and backward", parts)


def fused_block() -> tuple[str, str]:
    """What the block keeps, and where the gradients go."""
    z = torch.tensor([[1.0, 3, -1, -2], [2, 0, -4, -1], [0, 1, 2, 2], [-3, 5, 1, 2]])
    geometry = WindowGeometry((4, 4), (2, 2), (2, 2))
    image, one = z[None, None].requires_grad_(), torch.ones(1, 1, 1, 1)
    y = ops.conv_relu_pool(image, one)
    g = torch.tensor([[[[5.0, 6], [7, 8]]]])
    (grad,) = torch.autograd.grad(y, image, g)
    codes = [["1", "dead"], ["3", "0"]]
    code = torch.tensor([[DEAD if c == "dead" else int(c) for c in row] for row in codes])
    spread = cpu.pool_spread(g, code.to(torch.uint8)[None, None], geometry, None)
    if not torch.equal(spread, grad):
        raise ValueError(f"the codes drawn are not those of the block: {spread} and {grad}")
    winners = [(i, j) for i in range(4) for j in range(4) if grad[0, 0, i, j]]
    parts = [
        *grid(20, 50, cells(z), "z + b", winners),
        *grid(210, 84, cells(y[0, 0].detach()), "y"),
        *grid(330, 84, codes, "code", [(i, j) for i in range(2) for j in range(2)], SPREAD),
        note(430, 75, "Of each window, which won: 0 1 / 2 3,"),
        note(430, 95, "or dead, where the ReLU stopped all."),
        note(430, 115, "One byte; z, the ReLU's output and the"),
        note(430, 135, "pool's indices are not kept."),
        *grid(20, 250, cells(g[0, 0]), "g = ∂L/∂y"),
        *grid(150, 216, cells(grad[0, 0]), "∂L/∂z", winners),
        note(320, 250, "One number a window at most is not zero:"),
        note(320, 270, "∂L/∂w and ∂L/∂x multiply only these,"),
        note(320, 290, "at most a quarter of the dense products."),
    ]
    return picture("block.svg", 740, 380, "What the fused block keeps", parts)


def drawings() -> dict[str, str]:
    """Contents of each file in docs/pictures that this draws."""
    return dict([worked_example(), fused_block()])


if __name__ == "__main__":
    for name, text in drawings().items():
        (PICTURES / name).write_text(text, encoding="utf-8")
