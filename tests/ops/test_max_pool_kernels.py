"""The CPU kernels of max-pooling: torch's own numbers, and its winners, in both memory formats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.geometry.pooling import pool_geometry
from cnnexp.kernels.cpu import max_pool as cpu
from cnnexp.kernels.operators import flat_arguments
from cnnexp.ops.max_pool2d import small_indices
from tests.ops.counting import count_calls

_WINDOWS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "side by side": ((8, 6), {"kernel_size": 2}),
    "rest": ((9, 7), {"kernel_size": 2}),
    "over each other": ((9, 11), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "apart": ((11, 8), {"kernel_size": (1, 2), "stride": 3}),
    "dilated": ((9, 9), {"kernel_size": 2, "stride": 1, "dilation": (2, 3)}),
    "beyond the edge": ((7, 8), {"kernel_size": 3, "stride": 3, "ceil_mode": True}),
    "padded": ((6, 6), {"kernel_size": 2, "padding": 1}),
    "the whole image": ((5, 4), {"kernel_size": (5, 4)}),
    "wide": ((4, 75), {"kernel_size": 2}),
    "wide, over each other": ((5, 70), {"kernel_size": 3, "stride": (2, 1), "padding": 1}),
    "wide, apart": ((6, 71), {"kernel_size": 2, "stride": 3, "padding": (0, 1)}),
}
_CHANNELS = (2, 5, 8, 40)
windows = pytest.mark.parametrize("window", _WINDOWS)
layouts = pytest.mark.parametrize(
    "layout", [torch.channels_last, torch.contiguous_format], ids=["channels last", "plain"]
)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)


def _image(
    window: str,
    dtype: torch.dtype,
    channels: int = 8,
    n: int = 3,
    layout: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Few different numbers, so that many are equal, of either sign."""
    image = torch.randint(-3, 3, (n, channels, *_WINDOWS[window][0])).to(dtype) - 0.5
    return image.contiguous(memory_format=layout).requires_grad_()


def _pooled(image: Tensor, algorithm: str = "small_indices", **options: Any) -> Tensor:
    output = ops.max_pool2d(image, algorithm=algorithm, **options)
    assert isinstance(output, Tensor)
    return output


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which kernels ran."""
    found: list[str] = []
    for name in ("forward", "grad_input"):
        count_calls(monkeypatch, cpu, name, found)
    return found


@dtypes
@windows
@layouts
@pytest.mark.parametrize("channels", _CHANNELS)
def test_numbers_winners_and_gradients_are_torchs(
    calls: list[str], window: str, dtype: torch.dtype, channels: int, layout: torch.memory_format
) -> None:
    image, options = _image(window, dtype, channels, layout=layout), _WINDOWS[window][1]
    found, winners = ops.max_pool2d(
        image, **options, return_indices=True, algorithm="small_indices"
    )
    expected, torchs = ops.max_pool2d(image, **options, return_indices=True, algorithm="native")
    assert torch.equal(found, expected)
    assert torch.equal(winners, torchs)
    assert found.stride() == expected.stride()
    grad = torch.randint(-4, 4, found.shape).to(dtype)  # whose sums are exact
    assert torch.equal(
        *[torch.autograd.grad(output, image, grad)[0] for output in (found, expected)]
    )
    assert calls == ["forward", "grad_input"]


@layouts
def test_gradients_of_bfloat16_are_added_before_they_are_rounded(
    layout: torch.memory_format,
) -> None:
    image = torch.zeros(1, 2, 1, 5, dtype=torch.bfloat16).contiguous(memory_format=layout)
    image[..., 2] = 1  # which wins three windows
    output = _pooled(image.requires_grad_(), kernel_size=(1, 3), stride=1)
    grad = torch.tensor([256.0, 1.0, 1.0]).bfloat16().expand_as(output)
    (found,) = torch.autograd.grad(output, image, grad)
    assert found[0, 0, 0].tolist() == [0, 0, 258, 0, 0]  # one by one: 256 + 1 + 1 = 256


def _all(options: dict[str, Any]) -> list[Any]:
    defaults = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    return [options["kernel_size"], *[options.get(key, value) for key, value in defaults.items()]]


@dtypes
@layouts
def test_a_nan_wins_and_nothing_is_less_than_no_number(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    image = torch.full((1, 4, 2, 2), -torch.inf, dtype=dtype)
    image[0, 1] = torch.tensor([[torch.nan, 1], [2, 3]])
    image[0, 2] = torch.tensor([[1, 2], [-torch.nan, 3]])
    image[0, 3] = torch.tensor([[torch.nan, 1], [2, torch.nan]])
    image = image.contiguous(memory_format=layout)
    for stride, padding in ((2, 0), (1, 1)):  # the latter with a first element off the image
        found, expected = (
            ops.max_pool2d(image, 2, stride, padding, return_indices=True, algorithm=name)
            for name in ("small_indices", "native")
        )
        assert torch.equal(found[1], expected[1])
        torch.testing.assert_close(found[0], expected[0], equal_nan=True)


@layouts
def test_wide_images_are_pooled_as_before(calls: list[str], layout: torch.memory_format) -> None:
    wide = torch.randn(1, 3, 2, 400).contiguous(memory_format=layout).requires_grad_()
    output = _pooled(wide, kernel_size=2)
    assert torch.equal(output, _pooled(wide, "native", kernel_size=2))
    torch.autograd.grad(output.sum(), wide)
    assert calls == []


def test_a_gradient_in_another_layout_is_spread_as_well(calls: list[str]) -> None:
    image = _image("side by side", torch.float32)
    output = _pooled(image, kernel_size=2)
    grad = torch.randn(output.shape)
    assert grad.is_contiguous()
    (found,) = torch.autograd.grad(output, image, grad)
    (expected,) = torch.autograd.grad(_pooled(image, "native", kernel_size=2), image, grad)
    assert torch.equal(found, expected)
    assert calls == ["forward", "grad_input"]


@layouts
def test_the_gradient_of_the_gradient_takes_the_formula(layout: torch.memory_format) -> None:
    image = _image("over each other", torch.float64, layout=layout)
    options = _WINDOWS["over each other"][1]

    def pooled(image: Tensor) -> Tensor:
        return _pooled(image, **options)

    distinct = torch.randn_like(image).requires_grad_()
    assert torch.autograd.gradcheck(pooled, distinct)
    assert torch.autograd.gradgradcheck(pooled, distinct)


@windows
@layouts
def test_the_operators_pass_torchs_own_check(window: str, layout: torch.memory_format) -> None:
    image = _image(window, torch.float32, layout=layout).detach()
    geometry = pool_geometry(image, "max_pool2d", *_all(_WINDOWS[window][1]))
    output, winners = cpu.forward(image, geometry)
    assert torch.equal(
        small_indices.indices_of(winners, geometry),
        ops.max_pool2d(image, **_WINDOWS[window][1], return_indices=True, algorithm="native")[1],
    )
    for operator, arguments in (
        (cpu.forward, (image, geometry)),
        (cpu.grad_input, (output, winners, geometry)),
    ):
        flat = tuple(flat_arguments(arguments))
        torch.library.opcheck(
            vars(operator)["operator"], flat, test_utils=("test_schema", "test_faketensor")
        )


@dtypes
@layouts
def test_compiled_mapped_and_empty(dtype: torch.dtype, layout: torch.memory_format) -> None:
    image = _image("side by side", dtype, layout=layout)

    def pooled(image: Tensor) -> Tensor:
        return _pooled(image, kernel_size=2)

    compiled = torch.compile(pooled, fullgraph=True, backend="aot_eager")(image)
    assert torch.equal(compiled, pooled(image))
    grads = [torch.autograd.grad(each.sum(), image)[0] for each in (compiled, pooled(image))]
    assert torch.equal(*grads)
    assert torch.equal(torch.func.vmap(pooled)(image.detach().unsqueeze(1)).squeeze(1), compiled)
    nothing = image.detach()[:0].requires_grad_()
    output = pooled(nothing)
    assert output.shape == (0, 8, 4, 3)
    assert torch.autograd.grad(output.sum(), nothing)[0].shape == nothing.shape


@layouts
def test_few_threads_and_many_give_the_same_bits(layout: torch.memory_format) -> None:
    import numba

    options = _WINDOWS["over each other"][1]
    image = _image("over each other", torch.float32, n=9, layout=layout)
    threads, results = numba.get_num_threads(), []
    for count in sorted({1, threads}):
        numba.set_num_threads(count)
        output = _pooled(image, **options)
        grad = torch.linspace(-1, 1, output.numel()).view(output.shape)
        results.append((output.detach(), *torch.autograd.grad(output, image, grad)))
    numba.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
