"""Batch normalisation, activation and max-pooling by one kernel: the numbers of the parts; less is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cnnexp
from cnnexp import ops
from cnnexp.kernels.cpu import batch_norm, batch_norm_pool, max_pool
from cnnexp.kernels.operators import flat_arguments
from cnnexp.ops.batch_norm_act import ACTIVATIONS
from cnnexp.tuning.memory import saved_bytes
from tests.ops.counting import count_calls

LAST = torch.channels_last
POOLS = {
    "side by side": ((3, 5, 8, 6), ops.Pool()),
    "rest": ((3, 8, 9, 7), ops.Pool("max", 2)),
    "over each other": ((2, 12, 9, 11), ops.Pool("max", 3, 2, 1)),
    "apart": ((2, 4, 11, 8), ops.Pool("max", (1, 2), 3)),
    "beyond the edge": ((2, 17, 7, 8), ops.Pool("max", 3, 3, ceil_mode=True)),
    "as many places as pixels": ((4, 2, 1, 2), ops.Pool("max", (2, 1), 3, ceil_mode=True)),
    "dilated": ((2, 3, 9, 9), ops.Pool("max", 2, 1, dilation=(2, 3))),
    "several blocks of rows": ((2, 40, 40, 30), ops.Pool("max", 3, 2, 1)),
}
pools = pytest.mark.parametrize("name", POOLS)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which kernels of the block ran."""
    found: list[str] = []
    for name in ("forward", "gradients"):
        count_calls(monkeypatch, batch_norm_pool, name, found)
    return found


def _leaves(shape: tuple[int, ...], dtype: torch.dtype, layout: Any = LAST) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 1
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    pair = [torch.randn(shape[1], generator=generator, dtype=torch.float64) for _ in range(2)]
    leaves = [image.to(dtype).contiguous(memory_format=layout), *(each.to(wide) for each in pair)]
    return [each.requires_grad_() for each in leaves]


def _results(
    leaves: list[Tensor], training: bool, activation: str, pool: ops.Pool | None, **options: Any
) -> list[Tensor]:
    x, weight, bias = leaves
    running = torch.zeros_like(bias), torch.ones_like(bias)
    output = ops.batch_norm_act(
        x, *running, weight, bias, training, 0.3, activation=activation, pool=pool, **options
    )
    grad = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad.to(output.dtype)), *running]


@pools
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_numbers_are_those_of_the_parts(
    calls: list[str], name: str, activation: str, training: bool, dtype: torch.dtype
) -> None:
    shape, pool = POOLS[name]
    leaves = _leaves(shape, dtype)
    found = _results(leaves, training, activation, pool)
    assert calls == ["forward", "gradients"]
    x, weight, bias = leaves
    running = torch.zeros_like(bias), torch.ones_like(bias)
    active = ops.batch_norm_act(
        x, *running, weight, bias, training, 0.3, activation=activation, algorithm="fused"
    )
    window = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
    output = ops.max_pool2d(active, *window, algorithm="direct")
    assert isinstance(output, Tensor)
    assert torch.equal(found[0], output)
    grad = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    expected = [*torch.autograd.grad(output, leaves, grad.to(dtype)), *running]
    for one, other in zip(found[1:], expected, strict=True):
        assert one.stride() == other.stride()
        scale = max(1.0, other.abs().max().item())
        few = 30 * torch.finfo(dtype).eps * scale
        torch.testing.assert_close(one, other, rtol=0, atol=few)


@pools
def test_in_bfloat16_at_most_twice_torchs_own_error(calls: list[str], name: str) -> None:
    shape, pool = POOLS[name]
    exact = _results(_leaves(shape, torch.float64), True, "relu", pool, algorithm="direct")
    leaves = _leaves(shape, torch.bfloat16)
    exact = _results(
        [each.detach().double().requires_grad_() for each in leaves], True, "relu", pool
    )
    calls.clear()
    found = _results(leaves, True, "relu", pool)
    assert calls == ["forward", "gradients"]
    theirs = _results(leaves, True, "relu", pool, algorithm="native")
    for mine, other, true in zip(found[:4], theirs, exact, strict=False):
        assert mine.dtype == other.dtype
        errors = [(each.double() - true).norm().item() for each in (mine, other)]
        assert errors[0] <= 2 * errors[1] + 1e-6 * true.norm().item()


@pytest.mark.parametrize(
    "given",
    [
        {"layout": torch.contiguous_format},
        {"pool": ops.Pool("avg", 2)},
        {"shape": (2, 3, 4, 300), "pool": ops.Pool("max", 2)},  # whose places need more than a byte
        {"dtype": torch.float16},
        {"shape": (1, 3, 6, 6)},  # which one thread would compute
    ],
    ids=["plain", "means", "wide", "half", "one image"],
)
def test_what_the_kernels_do_not_take_is_pooled_apart(calls: list[str], given: Any) -> None:
    shape, pool = given.get("shape", (2, 3, 6, 6)), given.get("pool", ops.Pool())
    dtype = given.get("dtype", torch.float32)
    leaves = _leaves(shape, dtype, given.get("layout", LAST))
    found = _results(leaves, True, "relu", pool)
    expected = _results(leaves, True, "relu", pool, algorithm="native")
    rough = 0.01 if dtype == torch.float16 else 1e-4
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rough, atol=rough)
    assert calls == []


def test_a_gradient_may_be_a_part_of_another(calls: list[str]) -> None:
    leaves = _leaves((2, 3, 6, 6), torch.float32)

    def joined(algorithm: str) -> list[Tensor]:
        x, weight, bias = leaves
        z = ops.batch_norm_act(
            x, None, None, weight, bias, True, pool=ops.Pool(), algorithm=algorithm
        )
        total = torch.cat([z, 2 * x[..., ::2, ::2]], 1).square().sum()
        return list(torch.autograd.grad(total, leaves))

    found = joined("fused")
    assert calls == ["forward", "gradients"]
    for one, other in zip(found, joined("native"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_input_and_a_byte_a_window_are_kept() -> None:
    leaves = _leaves((4, 16, 12, 12), torch.float32)
    x, weight, bias = leaves

    def pooled(algorithm: str) -> Any:
        return lambda: ops.batch_norm_act(
            x, None, None, weight, bias, True, pool=ops.Pool(), algorithm=algorithm
        )

    few = 4 * 16 * 4  # γ, β, μ and σ²
    windows = x.numel() // 4
    assert saved_bytes(pooled("fused")) == 4 * x.numel() + windows + few
    assert saved_bytes(pooled("native")) > 8 * x.numel() + 8 * windows


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_of_the_gradient_takes_the_formulas(training: bool) -> None:
    leaves = _leaves((2, 3, 5, 6), torch.float64)
    running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)

    def pooled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, variance = (each.clone() for each in running)
        options: dict[str, Any] = {"activation": "silu", "pool": ops.Pool("max", 3, 2, 1)}
        return ops.batch_norm_act(x, mean, variance, weight, bias, training, **options)

    assert torch.autograd.gradcheck(pooled, leaves)
    assert torch.autograd.gradgradcheck(pooled, leaves)


def test_a_reader_computes_the_maxima_again() -> None:
    x, weight, bias = _leaves((3, 8, 10, 10), torch.float32)
    kernel = torch.randn(4, 8, 3, 3, requires_grad=True)

    def step(recompute: bool) -> Tensor:
        pool = ops.Pool("max", 3, 2, 1)
        y = ops.batch_norm_act(
            x, None, None, weight, bias, True, recompute=recompute, pool=pool, algorithm="fused"
        )
        return ops.conv2d(y, kernel, padding=1)

    grads = [
        torch.autograd.grad(step(again).square().sum(), (x, weight, bias, kernel))
        for again in (True, False)
    ]
    assert all(map(torch.equal, *grads))
    of_output = 4 * step(False).numel() * 8 // 4
    assert saved_bytes(lambda: step(False)) - saved_bytes(lambda: step(True)) >= of_output * 0.9


def test_few_threads_and_many_give_the_same_bits() -> None:
    import numba

    leaves = _leaves((9, 24, 15, 14), torch.float32)
    threads, results = numba.get_num_threads(), []
    for count in sorted({1, threads}):
        numba.set_num_threads(count)
        results.append(_results(leaves, True, "relu", ops.Pool("max", 3, 2, 1)))
    numba.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pools
def test_the_operators_pass_torchs_own_check(name: str) -> None:
    shape, pool = POOLS[name]
    image, weight, bias = (each.detach() for each in _leaves(shape, torch.float32))
    mean, variance = batch_norm.statistics(image)
    windows = cnnexp.geometry.pooling.pool_geometry(
        image, "", pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
    )
    known = weight, bias, mean, variance, 1e-5, "relu", windows
    output, winners = batch_norm_pool.forward(image, *known)
    active = batch_norm.forward(image, *known[:-1])
    assert all(map(torch.equal, (output, winners), max_pool.forward(active, windows)))
    for operator, arguments in (
        (batch_norm_pool.forward, (image, *known)),
        (batch_norm_pool.gradients, (output, winners, image, *known, False)),
    ):
        flat = tuple(flat_arguments(arguments))
        torch.library.opcheck(
            vars(operator)["operator"], flat, test_utils=("test_schema", "test_faketensor")
        )
