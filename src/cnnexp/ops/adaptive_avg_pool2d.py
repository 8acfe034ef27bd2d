"""Average-pooling to a given size: torch's forward, and the gradient as two matrix products.

Output (p, q) averages the rows ⌊p·H/P⌋ … ⌈(p+1)·H/P⌉ − 1 and the columns ⌊q·W/Q⌋ … ⌈(q+1)·W/Q⌉ − 1.
The average over a rectangle is the average over rows of the average over columns. With A the matrix
(P, H) that holds 1/(length of interval p) where row i is in interval p, else 0, and B likewise
(Q, W) for the columns, every plane x[n, c] is pooled by two matrix products; its gradient by their
transposes:

    Y = A·X·Bᵀ        ∂L/∂X = Aᵀ·G·B

The forward is torch's, as the products with the zeros in A and B would spread one infinite pixel over its
whole plane.

Source: docs/derivation.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.windows import check_image
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.layout import laid_out
from cnnexp.ops.precision import widened
from cnnexp.ops.registry import declare, get_algorithm

OutputSize = int | None | Sequence[int | None]


def averaging_matrix(size: int, positions: int, like: Tensor) -> Tensor:
    """(positions, size): row p averages interval p of ``size`` elements."""
    p = torch.arange(positions, device=like.device)
    start = (p * size).div(positions, rounding_mode="floor")
    end = -((-(p + 1) * size).div(positions, rounding_mode="floor"))
    i = torch.arange(size, device=like.device)
    inside = (i >= start[:, None]) & (i < end[:, None])
    return inside.to(like.dtype) / (end - start)[:, None].to(like.dtype)


def forward(input: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x: (…, H, W), A: (P, H), B: (Q, W) → y: (…, P, Q)."""
    return F.adaptive_avg_pool2d(input, (rows.size(0), columns.size(0)))


def grad_input(grad_output: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """∂L/∂x from ∂L/∂y: (…, P, Q) → (…, H, W)."""
    return rows.transpose(0, 1) @ grad_output @ columns


_pooled = differentiable(forward, input=grad_input, tangent="linear", widens="all")


def _direct(input: Tensor, output_size: OutputSize) -> Tensor:
    check_image(input.shape, "adaptive_avg_pool2d")
    sizes = (
        [output_size] * 2 if output_size is None or isinstance(output_size, int) else output_size
    )
    if len(sizes) >= input.dim():
        raise ValueError(
            f"output_size {output_size!r} needs more dimensions than {list(input.shape)}"
        )
    if len(sizes) != 2:
        raise RuntimeError(f"output_size must be an int or a pair, but got {output_size!r}")
    size = [n if s is None else s for s, n in zip(sizes, input.shape[-2:], strict=True)]
    if not all(isinstance(s, int) for s in size):
        raise TypeError(
            f"output_size must be an int, None or a pair of them, but got {output_size!r}"
        )
    if size == [1, 1] and min(input.shape[-2:]) < 1:
        return input.mean((-2, -1), keepdim=True)  # of nothing: NaN (as torch)
    if min(size) < 0 or min(input.shape[-2:]) < 1:
        raise RuntimeError(
            f"adaptive_avg_pool2d needs output_size ≥ 0 and a non-empty image, but got {size} for "
            f"input of size {list(input.shape)}"
        )
    like = widened(input)
    rows, columns = (
        averaging_matrix(n, s, like) for n, s in zip(input.shape[-2:], size, strict=True)
    )
    return laid_out(_pooled(input, rows, columns), input)


def adaptive_avg_pool2d(
    input: Tensor, output_size: OutputSize, *, algorithm: str = "direct"
) -> Tensor:
    """``torch.nn.functional.adaptive_avg_pool2d`` with the backward of ``algorithm``.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: P = Q, or (P, Q); None keeps the input's.
        algorithm: A name from ``cnnexp.ops.algorithm_names("adaptive_avg_pool2d")``.

    Returns:
        (N, C, P, Q) or (C, P, Q).

    Raises:
        RuntimeError, ValueError: The image is empty, a size is negative, or there are not two of them
            (as torch).
        TypeError: A size is no int (as torch).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> ops.adaptive_avg_pool2d(torch.arange(6.0).view(1, 2, 3), (1, 2)).tolist()
        [[[2.0, 3.0]]]
    """
    return get_algorithm("adaptive_avg_pool2d", algorithm)(input, output_size)


declare(
    adaptive_avg_pool2d,
    native=F.adaptive_avg_pool2d,
    direct=_direct,
    summary="torch's forward, the gradient by two products with averaging matrices",
)
