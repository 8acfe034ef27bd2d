"""Convolutions that ``implicit_gemm`` is tried on, and ways to compute them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.kernels.cpu import bfloat16

LAST = torch.channels_last
KERNELS = ("forward", "grad_input", "grad_weight")
# of a result, to the nearest number; and of float32 sums, by the sum of the products' magnitudes
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
SUMMING = 2.0**-19
no_pairs = pytest.mark.skipif(not bfloat16.AVAILABLE, reason="no AVX512_BF16, or numba before 0.62")
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=no_pairs)], ids=str
)
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["NCHW", "NHWC"])

# images, (C_in, C_out), (H, W), kernel, and what of the call differs from padding 1
CASES: list[tuple[int, tuple[int, int], tuple[int, int], tuple[int, int], dict[str, Any]]] = [
    (8, (16, 16), (1, 1), (1, 1), {"padding": 0}),
    (9, (16, 18), (5, 4), (3, 3), {}),  # an odd image without another beside it
    (32, (64, 48), (2, 2), (3, 3), {}),  # taps that stand on no pixel
    (13, (34, 50), (7, 7), (3, 2), {"stride": 2, "padding": (1, 0)}),
    (8, (40, 24), (6, 6), (3, 3), {"padding": 4, "dilation": 2}),  # windows that read padding alone
    (11, (16, 130), (9, 9), (1, 1), {"padding": 0, "stride": 2}),  # pixels that no window reads
    (10, (66, 22), (3, 3), (5, 5), {"padding": 2}),
    (16, (32, 96), (8, 9), (1, 1), {"padding": 0}),
    (40, (20, 20), (20, 20), (2, 2), {"padding": 0}),  # ∂L/∂w in several sums
    (3, (48, 64), (5, 7), (1, 1), {"padding": 0}),  # few images, whose pixels are rows
    (64, (24, 40), (5, 5), (1, 1), {"padding": 0}),  # rows of 400 pixels
    (33, (16, 16), (31, 1), (1, 1), {"padding": 0}),
    (509, (16, 18), (3, 1), (1, 1), {"padding": 0}),  # no rows of a length that divides all
    (8, (16, 16), (6, 5), (4, 4), {"padding": "same"}),
    (9, (54, 66), (4, 3), (3, 3), {"groups": 3}),
    (20, (64, 32), (3, 3), (1, 1), {"groups": 2, "padding": 0}),
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))


def given_tensors(
    case: Any, dtype: torch.dtype, layout: torch.memory_format
) -> tuple[list[Tensor], Any]:
    images, (c_in, c_out), size, kernel, options = case
    torch.manual_seed(0)
    tensors = [
        torch.randn(images, c_in, *size).to(memory_format=layout),
        torch.randn(c_out, c_in // options.get("groups", 1), *kernel).to(memory_format=layout),
        torch.randn(c_out),
    ]
    return [each.to(dtype) for each in tensors], {"padding": 1, **options}


def ours(x: Tensor, w: Tensor, b: Tensor | None = None, **window: Any) -> Tensor:
    return ops.conv2d(x, w, b, **window, algorithm="implicit_gemm")


def torchs(x: Tensor, w: Tensor, b: Tensor | None = None, **window: Any) -> Tensor:
    return F.conv2d(x, w, b, **window)


def results(tensors: list[Tensor], options: Any, way: Any, grad: Tensor) -> list[Tensor]:
    given = [each.detach().requires_grad_() for each in tensors]
    output = way(*given, **options)
    return [output.detach(), *torch.autograd.grad(output, given, grad.to(output.dtype))]
