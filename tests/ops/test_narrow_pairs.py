"""Convolutions of few channels in bfloat16, whose kernels multiply pairs: each number is the rounded one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.kernels.cpu import bfloat16, narrow_pairs
from cnnexp.ops.registry import algorithm_names, get_algorithm, op_names
from tests.ops.counting import count_calls

LAST = torch.channels_last
pytestmark = pytest.mark.skipif(
    not bfloat16.AVAILABLE, reason="no AVX512_BF16, or numba before 0.62"
)
_ROUNDING = 2.0**-8  # of a result, to the nearest bfloat16
_SUMMING = 2.0**-19  # of float32 sums, by the sum of the products' magnitudes

# (C_in, C_out), (H, W), kernel, and what of the call differs from padding 1
_CASES: list[tuple[tuple[int, int], tuple[int, int], tuple[int, int], dict[str, Any]]] = [
    ((1, 6), (28, 28), (5, 5), {"padding": 2}),
    ((1, 1), (5, 3), (3, 3), {}),
    ((1, 4), (9, 20), (3, 2), {}),  # no tap of a row is left alone
    ((1, 3), (7, 9), (3, 1), {"padding": (1, 0)}),  # no two taps in a row
    ((2, 4), (9, 16), (3, 3), {}),
    ((3, 8), (13, 17), (3, 3), {}),
    ((5, 7), (6, 40), (2, 5), {"padding": (0, 2)}),
    ((6, 16), (14, 14), (5, 5), {"padding": 0}),
    ((8, 8), (28, 28), (3, 3), {}),  # pixels of four pairs, in a row
    ((8, 12), (14, 15), (3, 3), {}),
    ((8, 8), (4, 33), (3, 3), {}),
    ((12, 12), (7, 7), (3, 3), {}),
    ((14, 10), (11, 18), (3, 3), {"dilation": 2, "padding": 2}),
    ((9, 2), (12, 30), (3, 3), {"dilation": (1, 3), "padding": (0, 1)}),
    ((16, 32), (6, 50), (3, 3), {}),
    ((32, 3), (3, 3), (1, 1), {"padding": 0}),
    ((11, 13), (8, 8), (4, 4), {"padding": 3}),
    ((4, 6), (2, 2), (3, 3), {"padding": 2}),  # fewer pixels than a register has
]
cases = pytest.mark.parametrize("case", _CASES, ids=lambda c: "-".join(map(str, c)))
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["NCHW", "NHWC"])


def _given(case: Any, images: int, layout: torch.memory_format) -> tuple[list[Tensor], Any]:
    (c_in, c_out), size, kernel, options = case
    torch.manual_seed(0)
    tensors = [
        torch.randn(images, c_in, *size).to(memory_format=layout),
        torch.randn(c_out, c_in, *kernel).to(memory_format=layout),
        torch.randn(c_out),
    ]
    return [each.bfloat16() for each in tensors], {"padding": 1, **options}


def _results(tensors: list[Tensor], options: Any, way: Any, grad: Tensor | None) -> list[Tensor]:
    given = [each.detach().requires_grad_() for each in tensors]
    output = way(*given, **options)
    grad = torch.ones_like(output) if grad is None else grad
    return [output.detach(), *torch.autograd.grad(output, given, grad.to(output.dtype))]


@cases
@layouts
@pytest.mark.parametrize("images", [1, 37])
def test_each_number_is_the_rounded_one(
    case: Any, layout: torch.memory_format, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, options = _given(case, images, layout)
    calls: list[str] = []
    for name in ("run_forward", "run_grad_input", "run_grad_weight"):
        count_calls(monkeypatch, narrow_pairs, name, calls)

    def narrow(x: Tensor, w: Tensor, b: Tensor, **window: Any) -> Tensor:
        return ops.conv2d(x, w, b, **window, algorithm="narrow")

    grad = torch.randn(narrow(*tensors, **options).shape).bfloat16()
    calls.clear()
    found = _results(tensors, options, narrow, grad)
    assert sorted(calls) == ["run_forward", "run_grad_input", "run_grad_weight"]
    exact = _results([each.double() for each in tensors], options, F.conv2d, grad)
    magnitudes = _results([e.double().abs() for e in tensors], options, F.conv2d, grad.abs())
    for one, other, most in zip(found, exact, magnitudes, strict=True):
        assert one.dtype == torch.bfloat16
        # a bias has a gradient by torch's own sum
        allowed = _ROUNDING * other.abs() + _SUMMING * most + 1e-37
        assert ((one.double() - other).abs() <= allowed).all()


@layouts
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("width", [2, 3])
def test_an_infinity_is_only_where_it_is_read(
    channels: int, width: int, layout: torch.memory_format
) -> None:
    image = torch.ones(2, channels, 6, 19).to(memory_format=layout).bfloat16()
    image[1, -1, 3, 7] = torch.inf
    weight = torch.ones(4, channels, 3, width).bfloat16()
    found = ops.conv2d(image, weight, padding=1, algorithm="narrow")
    # torch's own in bfloat16 has NaNs beside it
    torch.testing.assert_close(found.double(), F.conv2d(image.double(), weight.double(), padding=1))


def test_what_is_written_behind_a_row_is_not_beside_the_image() -> None:
    """Images between others in memory, whose numbers would be read or overwritten."""
    whole = torch.full((5, 10, 11, 8), torch.nan).bfloat16()
    image = whole[1:3].permute(0, 3, 1, 2)
    image.copy_(torch.randn(2, 8, 10, 11))
    weight = torch.randn(8, 8, 3, 3).bfloat16().to(memory_format=LAST)
    found = ops.conv2d(image, weight, padding=1, algorithm="narrow")
    expected = F.conv2d(image.double(), weight.double(), padding=1)
    assert ((found.double() - expected).abs() <= _ROUNDING * expected.abs() + 1e-4).all()
    assert whole[[0, 3, 4]].isnan().all()


def _own_ways() -> list[tuple[str, str]]:
    return [
        (op, name)
        for op in op_names()
        for name in algorithm_names(op)
        if get_algorithm(op, name).serves is not None
    ]


@pytest.mark.parametrize(("op", "name"), _own_ways(), ids=str)
def test_within_autocast_a_way_serves_what_it_serves_in_bfloat16(op: str, name: str) -> None:
    """Behind the first layer images are of bfloat16 already, weights are not."""
    algorithm, options = get_algorithm(op, name), {"padding": 1}
    channels, kernels = (16, 16) if name == "implicit_gemm" else (4, 4)
    if name == "depthwise":
        kernels, options = 1, {"padding": 1, "groups": 4}
    tensors = [torch.randn(8, channels, 9, 9), torch.randn(channels, kernels, 3, 3)]
    if op == "linear_act":
        channels, options = 32, {}
        tensors = [torch.randn(8, 32), torch.randn(32, 32)]
    image, weight, bias = *tensors, torch.randn(channels)
    takes_doubles = algorithm.has_a_way(*(t.double() for t in (image, weight, bias)), **options)
    assert algorithm.has_a_way(*(t.bfloat16() for t in (image, weight, bias)), **options)
    with torch.autocast("cpu", torch.bfloat16):
        assert algorithm.has_a_way(image, weight, bias, **options)
        assert algorithm.has_a_way(image.bfloat16(), weight, bias, **options)
        doubles = algorithm.has_a_way(*(t.double() for t in (image, weight, bias)), **options)
    assert doubles == takes_doubles  # which autocast leaves alone
