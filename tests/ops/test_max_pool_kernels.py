"""The CPU kernels of max-pooling: torch's own numbers, and its winners, for images with the channels last."""

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
}
_CHANNELS = (2, 5, 8, 40)
windows = pytest.mark.parametrize("window", _WINDOWS)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)


def _image(window: str, dtype: torch.dtype, channels: int = 8, n: int = 3) -> Tensor:
    """Few different numbers, so that many are equal, of either sign."""
    image = torch.randint(-3, 3, (n, channels, *_WINDOWS[window][0])).to(dtype) - 0.5
    return image.contiguous(memory_format=torch.channels_last).requires_grad_()


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
@pytest.mark.parametrize("channels", _CHANNELS)
def test_numbers_winners_and_gradients_are_torchs(
    calls: list[str], window: str, dtype: torch.dtype, channels: int
) -> None:
    image, options = _image(window, dtype, channels), _WINDOWS[window][1]
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
    adds = dtype == torch.bfloat16 and pool_geometry(image, "", *_all(options)).overlapping
    assert calls == ["forward"] if adds else ["forward", "grad_input"]


def _all(options: dict[str, Any]) -> list[Any]:
    defaults = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    return [options["kernel_size"], *[options.get(key, value) for key, value in defaults.items()]]


@dtypes
def test_a_nan_wins_and_nothing_is_less_than_no_number(dtype: torch.dtype) -> None:
    image = torch.full((1, 4, 2, 2), -torch.inf, dtype=dtype)
    image[0, 1] = torch.tensor([[torch.nan, 1], [2, 3]])
    image[0, 2] = torch.tensor([[1, 2], [-torch.nan, 3]])
    image[0, 3] = torch.tensor([[torch.nan, 1], [2, torch.nan]])
    image = image.contiguous(memory_format=torch.channels_last)
    found = ops.max_pool2d(image, 2, return_indices=True, algorithm="small_indices")
    expected = ops.max_pool2d(image, 2, return_indices=True, algorithm="native")
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0], equal_nan=True)


def test_plain_images_and_wide_ones_are_pooled_as_before(calls: list[str]) -> None:
    plain = torch.randn(2, 3, 6, 6, requires_grad=True)
    wide = torch.randn(1, 3, 2, 400).contiguous(memory_format=torch.channels_last)
    for image in (plain, wide.requires_grad_()):
        output = _pooled(image, kernel_size=2)
        assert torch.equal(output, _pooled(image, "native", kernel_size=2))
        torch.autograd.grad(output.sum(), image)
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


def test_the_gradient_of_the_gradient_takes_the_formula() -> None:
    image = _image("over each other", torch.float64)
    options = _WINDOWS["over each other"][1]

    def pooled(image: Tensor) -> Tensor:
        return _pooled(image, **options)

    distinct = torch.randn_like(image).requires_grad_()
    assert torch.autograd.gradcheck(pooled, distinct)
    assert torch.autograd.gradgradcheck(pooled, distinct)


@windows
def test_the_operators_pass_torchs_own_check(window: str) -> None:
    image = _image(window, torch.float32).detach()
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
def test_compiled_mapped_and_empty(dtype: torch.dtype) -> None:
    image = _image("side by side", dtype)

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


def test_few_threads_and_many_give_the_same_bits() -> None:
    import numba

    image, options = _image("over each other", torch.float32, n=9), _WINDOWS["over each other"][1]
    threads, results = numba.get_num_threads(), []
    for count in sorted({1, threads}):
        numba.set_num_threads(count)
        output = _pooled(image, **options)
        grad = torch.linspace(-1, 1, output.numel()).view(output.shape)
        results.append((output.detach(), *torch.autograd.grad(output, image, grad)))
    numba.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
