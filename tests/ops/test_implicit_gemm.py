"""Convolutions as products of matrices that are not laid out: each number is the rounded one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.geometry.convolution import conv2d_geometry
from cnnexp.kernels.cpu import bfloat16, implicit
from cnnexp.kernels.cpu.implicit_tables import for_input, for_output, for_weight
from cnnexp.nn import replace_layers
from tests.ops.counting import count_calls

LAST = torch.channels_last
KERNELS = ("forward", "grad_input", "grad_weight")
# of a result, to the nearest number; and of float32 sums, by the sum of the products' magnitudes
_ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
_SUMMING = 2.0**-19
_no_pairs = pytest.mark.skipif(
    not bfloat16.AVAILABLE, reason="no AVX512_BF16, or numba before 0.62"
)
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=_no_pairs)], ids=str
)
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["NCHW", "NHWC"])

# images, (C_in, C_out), (H, W), kernel, and what of the call differs from padding 1
_CASES: list[tuple[int, tuple[int, int], tuple[int, int], tuple[int, int], dict[str, Any]]] = [
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
cases = pytest.mark.parametrize("case", _CASES, ids=lambda c: "-".join(map(str, c)))


def _given(case: Any, dtype: torch.dtype, layout: torch.memory_format) -> tuple[list[Tensor], Any]:
    images, (c_in, c_out), size, kernel, options = case
    torch.manual_seed(0)
    tensors = [
        torch.randn(images, c_in, *size).to(memory_format=layout),
        torch.randn(c_out, c_in // options.get("groups", 1), *kernel).to(memory_format=layout),
        torch.randn(c_out),
    ]
    return [each.to(dtype) for each in tensors], {"padding": 1, **options}


def _ours(x: Tensor, w: Tensor, b: Tensor | None = None, **window: Any) -> Tensor:
    return ops.conv2d(x, w, b, **window, algorithm="implicit_gemm")


def _torchs(x: Tensor, w: Tensor, b: Tensor | None = None, **window: Any) -> Tensor:
    return F.conv2d(x, w, b, **window)


def _results(tensors: list[Tensor], options: Any, way: Any, grad: Tensor) -> list[Tensor]:
    given = [each.detach().requires_grad_() for each in tensors]
    output = way(*given, **options)
    return [output.detach(), *torch.autograd.grad(output, given, grad.to(output.dtype))]


@cases
@dtypes
@layouts
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_each_number_is_the_rounded_one(
    case: Any, dtype: torch.dtype, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, options = _given(case, dtype, layout)
    calls: list[str] = []
    for name in KERNELS:
        count_calls(monkeypatch, implicit, name, calls)
    grad = torch.randn(_torchs(*tensors, **options).shape).to(dtype)
    found = _results(tensors, options, _ours, grad)
    assert sorted(calls) == sorted(KERNELS)
    exact = _results([each.double() for each in tensors], options, _torchs, grad)
    magnitudes = _results([e.double().abs() for e in tensors], options, _torchs, grad.abs())
    for one, other, most in zip(found, exact, magnitudes, strict=True):
        assert one.dtype == dtype
        # a bias has a gradient by torch's own sum
        allowed = _ROUNDING[dtype] * other.abs() + _SUMMING * most + 1e-37
        assert ((one.double() - other).abs() <= allowed).all()
    assert found[2].is_contiguous(memory_format=layout)


def _in_autocast(tensors: list[Tensor], options: Any, grad: Tensor) -> list[Tensor]:
    """y and the gradients of float32 ``tensors`` within autocast to bfloat16."""
    given = [each.detach().requires_grad_() for each in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        output = _ours(*given, **options)
    return [output.detach(), *torch.autograd.grad(output, given, grad)]


@cases
@layouts
@_no_pairs
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_weights_stay_float32_in_autocast(
    case: Any, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, options = _given(case, torch.float32, layout)
    halved = [each.bfloat16() for each in tensors]
    calls: list[str] = []
    for name in KERNELS:
        count_calls(monkeypatch, implicit, name, calls)
    grad = torch.randn(_torchs(*tensors, **options).shape).bfloat16()
    found = _in_autocast(tensors, options, grad)
    assert sorted(calls) == sorted(KERNELS)
    expected = _results(halved, options, _ours, grad)
    # rounded on the way they are as a cast rounds them; only ∂L/∂w keeps what that would round off
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.bfloat16(), other)
    assert [each.dtype for each in found] == [torch.bfloat16, *[torch.float32] * 3]
    assert found[2].stride() == tensors[1].stride() or tensors[1][0, :, 0, 0].numel() == 1
    exact = _results([each.double() for each in halved], options, _torchs, grad)[2]
    most = _results([e.double().abs() for e in halved], options, _torchs, grad.abs())[2]
    assert ((found[2].double() - exact).abs() <= _SUMMING * most + 1e-37).all()


@_no_pairs
def test_a_cast_of_weights_is_neither_made_nor_kept() -> None:
    image, weight = torch.randn(8, 16, 4, 4).bfloat16(), torch.randn(32, 16, 3, 3).requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        output = _ours(image.requires_grad_(), weight, padding=1)
    pointers = {each.data_ptr() for each in kept}
    assert pointers == {image.data_ptr(), weight.data_ptr()}
    output.sum().backward()
    assert weight.grad is not None


@_no_pairs
@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16], ids=str)
def test_other_weights_are_cast_in_autocast(kept: torch.dtype) -> None:
    image, weight = torch.randn(8, 16, 4, 4), torch.randn(16, 16, 3, 3).to(kept).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = _ours(image, weight), F.conv2d(image, weight)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)
    (grad,) = torch.autograd.grad(found.sum(), weight)
    assert grad.dtype == kept


@_no_pairs
def test_second_derivatives_tangents_and_maps_in_autocast() -> None:
    image, weight = torch.randn(8, 16, 4, 4), torch.randn(16, 16, 3, 3)

    def loss(w: Tensor, conv: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return conv(image, w, padding=1).float().square().mean()

    ours, torchs = (lambda w: loss(w, _ours)), (lambda w: loss(w, _torchs))
    v = torch.randn_like(weight)
    for derivative in (
        lambda f: torch.autograd.functional.hvp(f, weight, v)[1],
        lambda f: torch.func.grad(f)(weight),
        lambda f: torch.func.jvp(f, (weight,), (v,))[1],
        lambda f: torch.func.vmap(torch.func.grad(f))(torch.stack([weight, v])),
    ):
        torch.testing.assert_close(derivative(ours), derivative(torchs), rtol=0.05, atol=2e-3)


@_no_pairs
def test_in_a_compiled_network_weights_stay_float32_in_autocast() -> None:
    conv = torch.nn.Conv2d(16, 16, 3, padding=1)
    network = replace_layers(torch.nn.Sequential(conv), "implicit_gemm", quiet=True)
    image = torch.randn(8, 16, 4, 4)

    def gradient(called: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            called(image).float().square().sum().backward()
        grad = network[0].weight.grad
        network.zero_grad()
        return grad

    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.equal(gradient(compiled), gradient(network))


@dtypes
def test_without_a_bias(dtype: torch.dtype) -> None:
    tensors, options = _given(_CASES[1], dtype, LAST)
    found = _ours(*tensors[:2], **options)
    torch.testing.assert_close(found, _torchs(*tensors[:2], **options))


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
    found = _ours(image, weight, padding=1)
    torch.testing.assert_close(found.double(), _torchs(image.double(), weight.double(), padding=1))


@dtypes
def test_nothing_beside_the_tensors_is_read_or_written(dtype: torch.dtype) -> None:
    """Images and weights between others in memory, which are NaN."""
    whole = torch.full((13, 3, 4, 18), torch.nan).to(dtype)
    weights = torch.full((24, 3, 3, 18), torch.nan).to(dtype)
    image, weight = whole[1:10].permute(0, 3, 1, 2), weights[1:23].permute(0, 3, 1, 2)
    image.copy_(torch.randn(9, 18, 3, 4))
    weight.copy_(torch.randn(22, 18, 3, 3))
    grad = torch.randn(9, 22, 3, 4)
    found = _results([image, weight], {"padding": 1}, _ours, grad)
    expected = _results([image.double(), weight.double()], {"padding": 1}, _torchs, grad)
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
    grad = torch.randn(_torchs(*tensors, **options).shape)
    assert not ops.get_algorithm("conv2d", "implicit_gemm").has_a_way(*tensors, **options)
    found = _results(tensors, options, _ours, grad)
    expected = _results(
        tensors, options, lambda *t, **o: ops.conv2d(*t, **o, algorithm="direct"), grad
    )
    assert not calls
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_single_image_is_no_batch_of_its_channels() -> None:
    image, weight = torch.randn(16, 4, 4), torch.randn(16, 16, 3, 3)
    assert not ops.get_algorithm("conv2d", "implicit_gemm").has_a_way(image, weight)
    torch.testing.assert_close(_ours(image, weight), _torchs(image, weight))


def test_the_gradient_of_a_gradient() -> None:
    tensors, options = _given(_CASES[1], torch.float32, LAST)
    grads = []
    for way in (_ours, _torchs):
        given = [(each / 8).requires_grad_() for each in tensors]
        first = torch.autograd.grad(way(*given, **options).square().sum(), given, create_graph=True)
        lengths = torch.stack([each.square().sum() for each in first])
        grads.append(torch.autograd.grad(lengths.sum(), given))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@dtypes
def test_in_a_compiled_function(dtype: torch.dtype) -> None:
    tensors, options = _given(_CASES[1], dtype, LAST)
    grad = torch.randn(_torchs(*tensors, **options).shape)
    compiled = torch.compile(_ours, backend="aot_eager", fullgraph=True)
    found, expected = (_results(tensors, options, way, grad) for way in (compiled, _ours))
    for one, other in zip(found[:3], expected[:3], strict=True):  # a bias has torch's own sum
        assert torch.equal(one, other)


def _in_float32() -> tuple[Tensor, Tensor, Tensor]:
    tensors, _ = _given(_CASES[1], torch.float32, torch.contiguous_format)
    return tensors[0], tensors[1], tensors[2]


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["NCHW", "NHWC"])
def test_results_lie_as_torchs_own(layout: torch.memory_format) -> None:
    tensors, options = _given(_CASES[1], torch.float32, layout)
    grad = torch.randn(_torchs(*tensors, **options).shape).contiguous(memory_format=layout)
    found, expected = (_results(tensors, options, way, grad) for way in (_ours, _torchs))
    assert [each.stride() for each in found] == [each.stride() for each in expected]


def test_a_gradient_that_is_one_number() -> None:
    """``sum().backward()`` hands over a tensor whose strides are 0."""
    given = [each.requires_grad_() for each in _in_float32()]
    found = torch.autograd.grad(_ours(*given, padding=1).sum(), given)
    expected = torch.autograd.grad(_torchs(*given, padding=1).sum(), given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_several_gradients_at_once() -> None:
    given = [each.requires_grad_() for each in _in_float32()]
    output = _ours(*given, padding=1)
    grads = torch.randn(3, *output.shape)
    found = torch.autograd.grad(output, given, grads, is_grads_batched=True, retain_graph=True)
    for k, grad in enumerate(grads):
        expected = torch.autograd.grad(output, given, grad, retain_graph=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[k], other)


def test_in_transforms() -> None:
    image, weight, bias = _in_float32()
    images = torch.stack([image, image + 1])
    mapped = torch.func.vmap(lambda x: _ours(x, weight, bias, padding=1))(images)
    torch.testing.assert_close(
        mapped, torch.stack([_ours(x, weight, bias, padding=1) for x in images])
    )
    tangent = torch.randn_like(image)
    mapped = torch.func.jvp(lambda x: _ours(x, weight, bias, padding=1), (image,), (tangent,))
    carried = mapped[1]
    torch.testing.assert_close(carried, _torchs(tangent, weight, padding=1), rtol=1e-4, atol=1e-4)


def test_gradients_of_another_dtype_are_no_numbers_of_these() -> None:
    """Whoever calls the plain function of an algorithm may hand over what autograd would not."""
    image, weight, _ = _in_float32()
    geometry = conv2d_geometry(image, weight, None, 1, 1, 1, 1)
    grad_weight = ops.get_algorithm("conv2d", "implicit_gemm").grad_weight
    assert grad_weight is not None
    with pytest.raises(RuntimeError, match="type"):
        grad_weight(torch.randn(9, 18, 5, 4).bfloat16(), image, geometry)
