"""Squared norms of each sample's gradient: those of batches of one and of torch.func, in every way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.geometry.pooling import DEAD, Pool
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import conv_relu_pool as cpu
from cnnexp.kernels.cpu import norms
from cnnexp.kernels.cpu.tables import patch_pixels
from cnnexp.ops import conv_relu_pool, per_sample
from cnnexp.ops.conv_relu_pool import fused
from cnnexp.ops.per_sample import (
    SquaredNorms,
    block_squared_norms,
    conv2d_squared_norms,
    linear_squared_norms,
)

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]
FIT = 1e-10  # relative, in float64


def _gradients(layer: Layer, weight: Tensor, bias: Tensor, image: Tensor, grads: Tensor) -> Any:
    """Of each sample, as batches of one: (N, *weight's shape) and (N, C_out)."""
    weight, bias = weight.detach().requires_grad_(), bias.detach().requires_grad_()
    each = [
        torch.autograd.grad(layer(x, weight, bias), (weight, bias), g)
        for x, g in zip(image.split(1), grads.split(1), strict=True)
    ]
    return [torch.stack(of_one) for of_one in zip(*each, strict=True)]


def _check(
    found: SquaredNorms, layer: Layer, weight: Tensor, bias: Tensor, image: Tensor, grads: Tensor
) -> None:
    def loss(weight: Tensor, bias: Tensor, x: Tensor, g: Tensor) -> Tensor:
        return (layer(x.unsqueeze(0), weight, bias) * g.unsqueeze(0)).sum()

    ones = _gradients(layer, weight, bias, image, grads)
    mapped = vmap(grad(loss, (0, 1)), (None, None, 0, 0))(weight, bias, image, grads)
    for expected in (ones, mapped):
        for norm, of_one in zip((found.weight, found.bias), expected, strict=True):
            assert norm.dtype == torch.float64
            squared = of_one.flatten(1).square().sum(1)
            torch.testing.assert_close(norm, squared, rtol=FIT, atol=0)
    if found.gradients is not None:
        factors = torch.rand(len(image), dtype=torch.float64)
        for written, of_one in zip((found.gradients, found.biases), ones, strict=True):
            assert written is not None
            torch.testing.assert_close(written, of_one, rtol=FIT, atol=FIT)
            weighted = norms.weighted_gradients(written, factors)
            torch.testing.assert_close(
                weighted, torch.tensordot(factors, of_one, 1), rtol=FIT, atol=FIT
            )


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (3, 2, 3, 4), (2, 40, 4), (1, 4)], ids=str)
def test_linear(shape: tuple[int, ...]) -> None:
    image, weight, bias = torch.randn(shape).double(), torch.randn(5, 4).double(), torch.randn(5)
    grads = torch.randn(*shape[:-1], 5).double()
    _check(linear_squared_norms(grads, image), F.linear, weight, bias.double(), image, grads)


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 4)], ids=str)
def test_copies_of_an_image_are_one_sample(shape: tuple[int, ...]) -> None:
    image, grads = torch.randn(shape).double(), torch.randn(*shape[:-1], 5).double()
    norms = linear_squared_norms(grads, image, copies=2)
    weights = torch.stack([g.flatten(0, -2).T @ x.flatten(0, -2) for g, x in _pairs(grads, image)])
    biases = torch.stack([g.flatten(0, -2).sum(0) for g, _ in _pairs(grads, image)])
    torch.testing.assert_close(norms.weight, weights.flatten(1).square().sum(1), rtol=FIT, atol=0)
    torch.testing.assert_close(norms.bias, biases.square().sum(1), rtol=FIT, atol=0)


def _pairs(grads: Tensor, image: Tensor) -> zip[tuple[Tensor, Tensor]]:
    return zip(grads.split(2), image.split(2), strict=True)


# C_in, C_out, size, kernel, stride, padding, dilation, groups
CONVOLUTIONS = [
    (4, 6, (7, 6), (3, 2), 1, 0, 1, 1),
    (4, 6, (7, 6), (3, 3), (2, 1), (1, 2), 1, 2),
    (4, 4, (9, 8), (3, 3), 1, 2, (2, 3), 4),
    (6, 18, (5, 5), (3, 2), 1, "same", 1, 1),
    (6, 18, (6, 5), (2, 4), 1, "same", (3, 1), 3),
    (3, 32, (4, 4), (4, 4), 1, "valid", 1, 1),  # one position
    (16, 32, (5, 5), (3, 3), 2, 1, 1, 1),  # few: by Gram
    (16, 32, (5, 5), (3, 3), 2, 1, 1, 2),
    (1, 3, (9, 9), (1, 1), 3, 0, 1, 1),
]


def _convolution(case: Any, n: int) -> tuple[Layer, list[Tensor], Conv2dGeometry, Tensor]:
    c_in, c_out, size, kernel, *window = case
    image, bias = torch.randn(n, c_in, *size).double(), torch.randn(c_out).double()
    weight = torch.randn(c_out, c_in // window[-1], *kernel).double()
    geometry = conv2d_geometry(image, weight, bias, *window)
    grads = torch.randn(n, c_out, *geometry.output_size).double()

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, *window)

    return layer, [weight, bias, image], geometry, grads


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case: Any, layout: torch.memory_format) -> None:
    layer, (weight, bias, image), geometry, grads = _convolution(case, 3)
    found = conv2d_squared_norms(
        grads.contiguous(memory_format=layout), image.contiguous(memory_format=layout), geometry
    )
    _check(found, layer, weight, bias, image, grads)


def test_both_ways_of_the_convolution_were_tried() -> None:
    ways = set()
    for case in CONVOLUTIONS:
        _, (weight, *_), geometry, grads = _convolution(case, 1)
        positions, outputs = grads[0, 0].numel(), grads.size(1) // geometry.groups
        few = outputs < per_sample._FEW_OUTPUTS
        ways.add((per_sample._gram_is_cheaper(positions, outputs, weight[0].numel()), few))
    assert ways >= {(False, False), (True, False), (False, True)}


def test_slices_of_the_batch_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CONVOLUTIONS[1], CONVOLUTIONS[6]:
        _, (_, _, image), geometry, grads = _convolution(case, 5)
        whole = conv2d_squared_norms(grads, image, geometry).weight
        for numbers in (1, 3000):
            monkeypatch.setattr(per_sample, "MOST_NUMBERS", numbers)
            torch.testing.assert_close(conv2d_squared_norms(grads, image, geometry).weight, whole)
        monkeypatch.undo()


# C_in, C_out, size, kernel, stride, padding, dilation, pool: and the way that is chosen
BLOCKS = [
    ((1, 5, (12, 12), (3, 3), 1, 1, 1, Pool()), "written"),
    ((3, 5, (9, 8), (3, 2), 1, "same", 1, Pool("max", 3, 2, 1)), "written"),
    ((15, 40, (4, 4), (3, 3), 1, 1, 1, Pool()), "gram"),
    ((16, 8, (12, 12), (3, 3), 1, 1, 1, Pool()), "rows"),
    ((20, 17, (11, 15), (3, 2), (1, 2), (2, 1), (2, 1), Pool()), "rows"),
    ((16, 5, (13, 12), (3, 3), 1, 2, (1, 2), Pool("max", 3, 2, 1, 1, True)), "rows"),
    ((64, 37, (5, 7), (3, 3), 1, 1, 1, Pool()), "gram"),
    ((32, 70, (4, 5), (3, 2), 1, "same", 1, Pool("max", 3, 2, 1)), "gram"),
    ((32, 64, (9, 9), (3, 3), 2, 1, 1, Pool("max", 2, 2, 0, 1, True)), "gram"),
    ((64, 50, (6, 6), (3, 3), 1, 2, 2, Pool("max", 2, 4, 1, 2)), "gram"),
    ((16, 20, (3, 3), (3, 3), 1, 1, 1, Pool()), "window"),
    ((2, 20, (5, 4), (2, 3), 1, 1, 1, Pool("max", (6, 4))), "window"),
    ((19, 4, (3, 4), (3, 3), 1, "same", 1, Pool("max", 3, 4, 1)), "window"),
]


def _block(case: Any, n: int, dtype: torch.dtype = torch.float64) -> tuple[Layer, Any, Any]:
    """A block as torch computes it; weight, bias and image; what the Function has of it for its gradients."""
    c_in, c_out, size, kernel, *window, pool = case
    image, bias = torch.randn(n, c_in, *size, dtype=dtype), torch.randn(c_out, dtype=dtype)
    weight = torch.randn(c_out, c_in, *kernel, dtype=dtype)
    caught: list[Any] = []
    original = fused._block

    def catch(*arguments: Any) -> Any:
        results = original(*arguments)
        caught.extend((*results, arguments[-1]))
        return results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_block", catch)
        conv_relu_pool(image, weight, bias, *window, pool=pool)
    output, code, plan = caught

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv_relu_pool(x, weight, bias, *window, pool=pool, algorithm="native")

    return layer, (weight, bias, image), (torch.randn_like(output), code, image, plan)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("case", "way"), BLOCKS, ids=str)
def test_block(case: Any, way: str) -> None:
    layer, (weight, bias, image), arguments = _block(case, 3)
    plan = arguments[-1]
    assert plan.sparse
    assert norms.cheapest_way(plan.conv, plan.pool, case[0], case[1]) == way
    found = block_squared_norms(*arguments)
    _check(found, layer, weight, bias, image, arguments[0])
    assert (found.gradients is not None) == (way in ("written", "rows"))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", [case for case, _ in BLOCKS], ids=str)
def test_all_ways_of_the_block_agree(case: Any, dtype: torch.dtype) -> None:
    _, _, (grads, code, image, plan) = _block(case, 2, dtype)
    conv, pool = plan.conv, plan.pool
    spread = cpu.pool_spread(grads, code, pool, None)
    exact = conv2d_squared_norms(spread.double(), image.double(), conv)
    image = conv.add_extra(image)
    ways = {"gram", "rows" if case[0] >= cpu.FEW_CHANNELS else "written"}
    ways |= {"window"} if pool.output_size == (1, 1) else set()
    close = 1e-5 if dtype == torch.float32 else FIT
    for way in ways:
        weight, bias, *_ = norms.winners_squared_norms(grads, code, image, conv, pool, way)
        torch.testing.assert_close(weight, exact.weight, rtol=close, atol=0)
        torch.testing.assert_close(bias, exact.bias, rtol=close, atol=0)


@pytest.mark.parametrize(
    "case",
    [
        (3, 5, (8, 8), (3, 3), 1, 1, 1, Pool("avg")),
        (3, 5, (8, 8), (3, 3), 1, 1, 1, Pool("max", 3, 1, 1)),  # few losers
    ],
    ids=str,
)
def test_block_through_the_gradient_of_the_convolution(case: Any) -> None:
    layer, (weight, bias, image), arguments = _block(case, 3)
    assert not arguments[-1].sparse
    _check(block_squared_norms(*arguments), layer, weight, bias, image, arguments[0])


def test_an_empty_batch_has_no_norms() -> None:
    found = [linear_squared_norms(torch.empty(0, 5), torch.empty(0, 4))]
    found += [linear_squared_norms(torch.empty(0, 2, 5), torch.empty(0, 2, 4))]
    for case in CONVOLUTIONS[0], CONVOLUTIONS[2], CONVOLUTIONS[6]:
        _, (_, _, image), geometry, grads = _convolution(case, 0)
        found.append(conv2d_squared_norms(grads, image, geometry))
    for case, _ in (BLOCKS[0], BLOCKS[3], BLOCKS[6], BLOCKS[10]):
        found.append(block_squared_norms(*_block(case, 0)[2]))
    for weight, bias, gradients, _ in found:
        assert weight.shape == bias.shape == (0,)
        assert weight.dtype == bias.dtype == torch.float64
        assert gradients is None or len(gradients) == 0


def test_what_the_relu_stopped_counts_nothing() -> None:
    for case, way in BLOCKS[0], BLOCKS[3], BLOCKS[6], BLOCKS[10]:
        _, _, (grads, code, image, plan) = _block(case, 2)
        code[0] = DEAD
        if way in ("rows", "window"):  # which multiply nothing by 0
            image[0] = torch.inf
        found = block_squared_norms(grads, code, image, plan)
        assert found.weight[0] == found.bias[0] == 0
        assert found.weight[1] > 0


@pytest.mark.parametrize(
    ("case", "limit", "numbers"),
    [
        (BLOCKS[0][0], "MOST_NUMBERS", 12 * 5),
        (BLOCKS[3][0], "KEPT_NUMBERS", 16 * 9 * 8),
    ],
    ids=["written", "rows"],
)
def test_gradients_are_handed_out_where_they_are_few(
    case: Any, limit: str, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, arguments = _block(case, 3)
    whole = block_squared_norms(*arguments)
    monkeypatch.setattr(norms, limit, 2 * numbers)  # of two images
    parts = block_squared_norms(*arguments)
    assert whole.gradients is not None
    assert parts.gradients is None
    assert torch.equal(whole.weight, parts.weight)


def test_neither_threads_nor_neighbours_change_a_bit() -> None:
    import numba

    threads = numba.get_num_threads()
    for (case, _), dtype in itertools.product(
        (BLOCKS[0], BLOCKS[3], BLOCKS[6], BLOCKS[10]), (torch.float32, torch.float64)
    ):
        _, _, (grads, code, image, plan) = _block(case, 5, dtype)
        results, sums = [], []
        for count in {1, threads}:
            numba.set_num_threads(count)
            found = block_squared_norms(grads, code, image, plan)
            results.append(found)
            if found.gradients is not None:
                factors = torch.arange(5.0)
                sums.append(norms.weighted_gradients(found.gradients, factors))
        numba.set_num_threads(threads)
        alone = block_squared_norms(grads[3:4], code[3:4], image[3:4], plan)
        for other in results:
            assert torch.equal(other.weight, results[0].weight)
            assert torch.equal(other.bias, results[0].bias)
            assert torch.equal(other.weight[3:4], alone.weight)
        assert all(torch.equal(each, sums[0]) for each in sums)


def test_threads_change_no_bit_of_the_dense_ways() -> None:
    threads, results = torch.get_num_threads(), []
    image, grads = torch.randn(1, 40_000), torch.randn(1, 5)
    _, (_, _, batch), geometry, of_output = _convolution((8, 48, (40, 40), (3, 3), 1, 1, 1, 1), 2)
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(
            (
                linear_squared_norms(grads, image).weight,
                conv2d_squared_norms(of_output.float(), batch.float(), geometry).weight,
            )
        )
    torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    _, (_, _, image), geometry, grads = _convolution(CONVOLUTIONS[0], 3)
    image, grads = image.to(dtype), grads.to(dtype)
    found = conv2d_squared_norms(grads, image, geometry)
    exact = conv2d_squared_norms(grads.double(), image.double(), geometry)
    torch.testing.assert_close(found.weight, exact.weight, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.bias, exact.bias, rtol=1e-5, atol=0)


def test_a_sum_that_cancels_is_not_negative() -> None:
    image, grads = torch.full((1, 3, 40), 0.1), torch.full((1, 3, 50), 0.1)
    grads[0, 2] = -0.2
    for scale in (1.0, 3.3, 7.7):
        assert linear_squared_norms(scale * grads, image).weight >= 0


def test_tables_of_patches() -> None:
    conv = Conv2dGeometry((2, 3), (2, 2), padding=(1, 0))
    patches = patch_pixels(conv, WindowGeometry((3, 2), (2, 2), (2, 2), (1, 1)))
    # z is 3 × 2; its rows 0, 1 and 2 read the image's rows −1 and 0, 0 and 1, 1 and 2
    assert patches.pixels.tolist() == [
        [6, 6, 0, 1],
        [6, 6, 1, 2],
        [0, 1, 3, 4],
        [1, 2, 4, 5],
        [3, 4, 6, 6],
        [4, 5, 6, 6],
    ]
    assert patches.numbers.tolist() == [
        [-1, -1, -1, 0],
        [-1, -1, 1, -1],
        [-1, 2, -1, 4],
        [3, -1, 5, -1],
    ]


@pytest.mark.parametrize(
    ("numbers", "rows", "calls"),
    [(4, 1, [3, 3, 1]), (4, 2, [6, 1]), (100, 1, 7 * [1]), (0, 1, [7])],
)
def test_a_batch_goes_through_in_slices_that_the_memory_holds(
    numbers: int, rows: int, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_sample, "MOST_NUMBERS", 12)
    seen: list[int] = []

    def lengths(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return batch.sum(1)

    batch = torch.randn(7, 3)
    assert torch.equal(per_sample._by_slices(lengths, numbers, batch, rows=rows), batch.sum(1))
    assert seen == calls
