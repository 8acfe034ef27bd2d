"""Convolutions as products of matrices that are not laid out: each number is the rounded one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.geometry.convolution import conv2d_geometry
from cnnexp.kernels.cpu import implicit
from cnnexp.kernels.cpu.implicit_tables import for_input, for_output, for_weight
from tests.ops.counting import count_calls
from tests.ops.implicit_gemm_cases import (
    CASES,
    KERNELS,
    LAST,
    ROUNDING,
    SUMMING,
    cases,
    dtypes,
    given_tensors,
    layouts,
    ours,
    results,
    torchs,
)


@cases
@dtypes
@layouts
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_each_number_is_the_rounded_one(
    case: Any, dtype: torch.dtype, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, options = given_tensors(case, dtype, layout)
    calls: list[str] = []
    for name in KERNELS:
        count_calls(monkeypatch, implicit, name, calls)
    grad = torch.randn(torchs(*tensors, **options).shape).to(dtype)
    found = results(tensors, options, ours, grad)
    assert sorted(calls) == sorted(KERNELS)
    exact = results([each.double() for each in tensors], options, torchs, grad)
    magnitudes = results([e.double().abs() for e in tensors], options, torchs, grad.abs())
    for one, other, most in zip(found, exact, magnitudes, strict=True):
        assert one.dtype == dtype
        # a bias has a gradient by torch's own sum
        allowed = ROUNDING[dtype] * other.abs() + SUMMING * most + 1e-37
        assert ((one.double() - other).abs() <= allowed).all()
    assert found[2].is_contiguous(memory_format=layout)


@dtypes
def test_without_a_bias(dtype: torch.dtype) -> None:
    tensors, options = given_tensors(CASES[1], dtype, LAST)
    found = ours(*tensors[:2], **options)
    torch.testing.assert_close(found, torchs(*tensors[:2], **options))


def _products(rows: Any, terms: Any, of_sum: int) -> list[tuple[int, ...]]:
    """(p, i, t) of all: pixels of what is written and read, counted through the batch, and taps."""
    (by_read, by_written), by_pixel = rows.steps
    begins, entries = terms
    assert (begins[0], begins[-1]) == (0, len(entries))
    found = []
    for k, (first, last) in enumerate(pairwise(begins)):
        for entry in entries[first:last].tolist():
            entry.insert(of_sum, k)
            written, read, tap = entry
            found += [
                (n * by_written + written * by_pixel, n * by_read + read * by_pixel, tap)
                for n in range(rows.images)
            ]
    return sorted(found)


@cases
def test_the_terms_are_those_of_the_formula(case: Any) -> None:
    images, (c_in, c_out), size, kernel, options = case
    given = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, **options}
    image = torch.empty(1, c_in, *size)
    weight = torch.empty(c_out, c_in // given["groups"], *kernel)
    geometry = conv2d_geometry(image, weight, None, *given.values())
    (s_h, s_w), (p_h, p_w), (d_h, d_w) = geometry.stride, geometry.padding, geometry.dilation
    (height, width), (rows, columns) = geometry.input_size, geometry.output_size
    expected = sorted(
        ((n * rows + p) * columns + q, (n * height + i) * width + j, u * kernel[1] + v)
        for n in range(images)
        for p in range(rows)
        for q in range(columns)
        for u in range(kernel[0])
        for v in range(kernel[1])
        if 0 <= (i := p * s_h + u * d_h - p_h) < height
        and 0 <= (j := q * s_w + v * d_w - p_w) < width
    )
    assert _products(*for_output(images, geometry), of_sum=0) == expected
    assert _products(*for_weight(images, geometry), of_sum=2) == expected
    backward = [(i, p, t) for p, i, t in expected]
    assert _products(*for_input(images, geometry), of_sum=0) == sorted(backward)


@dtypes
def test_an_infinity_is_only_where_it_is_read(dtype: torch.dtype) -> None:
    image = torch.ones(9, 16, 6, 7).to(dtype)
    image[8, -1, 3, 4] = torch.inf
    weight = torch.ones(20, 16, 3, 3).to(dtype)
    found = ours(image, weight, padding=1)
    torch.testing.assert_close(found.double(), torchs(image.double(), weight.double(), padding=1))


@dtypes
def test_nothing_beside_the_tensors_is_read_or_written(dtype: torch.dtype) -> None:
    """Images and weights between others in memory, which are NaN."""
    whole = torch.full((13, 3, 4, 18), torch.nan).to(dtype)
    weights = torch.full((24, 3, 3, 18), torch.nan).to(dtype)
    image, weight = whole[1:10].permute(0, 3, 1, 2), weights[1:23].permute(0, 3, 1, 2)
    image.copy_(torch.randn(9, 18, 3, 4))
    weight.copy_(torch.randn(22, 18, 3, 3))
    grad = torch.randn(9, 22, 3, 4)
    found = results([image, weight], {"padding": 1}, ours, grad)
    expected = results([image.double(), weight.double()], {"padding": 1}, torchs, grad)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0.02, atol=0.05)
    assert whole[[0, 10, 11, 12]].isnan().all()
    assert weights[[0, 23]].isnan().all()


@pytest.mark.parametrize(
    ("shapes", "options", "dtype"),
    [
        (((7, 16, 4, 4), (16, 16, 3, 3)), {}, torch.float32),
        (((8, 15, 4, 4), (16, 15, 3, 3)), {}, torch.float32),
        (((8, 16, 4, 4), (15, 16, 3, 3)), {}, torch.float32),
        (((8, 32, 4, 4), (32, 8, 3, 3)), {"groups": 4}, torch.float32),
        (((8, 17, 4, 4), (16, 17, 3, 3)), {}, torch.bfloat16),
        (((8, 16, 4, 4), (17, 16, 3, 3)), {}, torch.bfloat16),
        (((8, 16, 4, 4), (16, 16, 3, 3)), {}, torch.float64),
        (((8, 16, 64, 65), (16, 16, 1, 1)), {}, torch.float32),
    ],
    ids=str,
)
def test_other_convolutions_are_those_of_direct(
    shapes: Any, options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in KERNELS:
        count_calls(monkeypatch, implicit, name, calls)
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    grad = torch.randn(torchs(*tensors, **options).shape)
    assert not ops.get_algorithm("conv2d", "implicit_gemm").has_a_way(*tensors, **options)
    found = results(tensors, options, ours, grad)
    expected = results(
        tensors, options, lambda *t, **o: ops.conv2d(*t, **o, algorithm="direct"), grad
    )
    assert not calls
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_single_image_is_no_batch_of_its_channels() -> None:
    image, weight = torch.randn(16, 4, 4), torch.randn(16, 16, 3, 3)
    assert not ops.get_algorithm("conv2d", "implicit_gemm").has_a_way(image, weight)
    torch.testing.assert_close(ours(image, weight), torchs(image, weight))


def test_the_gradient_of_a_gradient() -> None:
    tensors, options = given_tensors(CASES[1], torch.float32, LAST)
    grads = []
    for way in (ours, torchs):
        given = [(each / 8).requires_grad_() for each in tensors]
        first = torch.autograd.grad(way(*given, **options).square().sum(), given, create_graph=True)
        lengths = torch.stack([each.square().sum() for each in first])
        grads.append(torch.autograd.grad(lengths.sum(), given))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@dtypes
def test_in_a_compiled_function(dtype: torch.dtype) -> None:
    tensors, options = given_tensors(CASES[1], dtype, LAST)
    grad = torch.randn(torchs(*tensors, **options).shape)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    found, expected = (results(tensors, options, way, grad) for way in (compiled, ours))
    for one, other in zip(found[:3], expected[:3], strict=True):  # a bias has torch's own sum
        assert torch.equal(one, other)


def _in_float32() -> tuple[Tensor, Tensor, Tensor]:
    tensors, _ = given_tensors(CASES[1], torch.float32, torch.contiguous_format)
    return tensors[0], tensors[1], tensors[2]


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["NCHW", "NHWC"])
def test_results_lie_as_torchs_own(layout: torch.memory_format) -> None:
    tensors, options = given_tensors(CASES[1], torch.float32, layout)
    grad = torch.randn(torchs(*tensors, **options).shape).contiguous(memory_format=layout)
    found, expected = (results(tensors, options, way, grad) for way in (ours, torchs))
    assert [each.stride() for each in found] == [each.stride() for each in expected]


def test_a_gradient_that_is_one_number() -> None:
    """``sum().backward()`` hands over a tensor whose strides are 0."""
    given = [each.requires_grad_() for each in _in_float32()]
    found = torch.autograd.grad(ours(*given, padding=1).sum(), given)
    expected = torch.autograd.grad(torchs(*given, padding=1).sum(), given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_several_gradients_at_once() -> None:
    given = [each.requires_grad_() for each in _in_float32()]
    output = ours(*given, padding=1)
    grads = torch.randn(3, *output.shape)
    found = torch.autograd.grad(output, given, grads, is_grads_batched=True, retain_graph=True)
    for k, grad in enumerate(grads):
        expected = torch.autograd.grad(output, given, grad, retain_graph=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[k], other)


def test_in_transforms() -> None:
    image, weight, bias = _in_float32()
    images = torch.stack([image, image + 1])
    mapped = torch.func.vmap(lambda x: ours(x, weight, bias, padding=1))(images)
    torch.testing.assert_close(
        mapped, torch.stack([ours(x, weight, bias, padding=1) for x in images])
    )
    tangent = torch.randn_like(image)
    mapped = torch.func.jvp(lambda x: ours(x, weight, bias, padding=1), (image,), (tangent,))
    carried = mapped[1]
    torch.testing.assert_close(carried, torchs(tangent, weight, padding=1), rtol=1e-4, atol=1e-4)


def test_gradients_of_another_dtype_are_no_numbers_of_these() -> None:
    """Whoever calls the plain function of an algorithm may hand over what autograd would not."""
    image, weight, _ = _in_float32()
    geometry = conv2d_geometry(image, weight, None, 1, 1, 1, 1)
    grad_weight = ops.get_algorithm("conv2d", "implicit_gemm").grad_weight
    assert grad_weight is not None
    with pytest.raises(RuntimeError, match="type"):
        grad_weight(torch.randn(9, 18, 5, 4).bfloat16(), image, geometry)
