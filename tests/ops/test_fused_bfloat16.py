"""The fused block in bfloat16 on CPU: as exact as torch's own, by the same kernels on every call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.kernels.cpu import bfloat16
from cnnexp.kernels.cpu import conv_relu_pool as cpu
from cnnexp.kernels.operators import flat_arguments
from cnnexp.ops.conv_relu_pool import fused
from cnnexp.ops.per_sample import block_squared_norms
from tests.ops.counting import count_calls

able = pytest.mark.skipif(not bfloat16.AVAILABLE, reason="no AVX512_BF16, or numba before 0.62")
_UNIT = 2.0**-7  # of the last of eight binary digits, by half of which a result is rounded

# C_in, C_out, size of the image, and what of the call differs from padding 1 and a 2×2 pool
_CASES: list[tuple[int, int, tuple[int, int], dict[str, Any]]] = [
    (1, 32, (13, 10), {}),
    (3, 37, (9, 12), {}),
    (16, 16, (9, 7), {}),
    (20, 48, (10, 11), {"padding": 0}),
    (32, 64, (14, 14), {}),
    (33, 5, (8, 8), {}),  # C_out fills no vector
    (64, 32, (7, 7), {}),
    (96, 16, (5, 3), {}),
    (128, 80, (3, 3), {}),
    (32, 16, (15, 14), {"stride": 2, "padding": 2}),
    (32, 16, (13, 13), {"dilation": 2, "padding": (2, 0)}),
    (16, 32, (12, 12), {"kernel": (5, 5), "padding": 2}),
    (40, 16, (9, 9), {"kernel": (1, 1), "padding": 0}),
    (64, 16, (9, 9), {"kernel": (2, 4), "padding": (1, 2)}),
    (32, 32, (11, 11), {"pool": ops.Pool("max", 3, 2, 1)}),
    (2, 32, (11, 11), {"pool": ops.Pool("max", 3, 2, 1)}),
    (32, 32, (9, 9), {"pool": ops.Pool("max", 2, ceil_mode=True)}),
    (32, 16, (60, 60), {}),  # many positions
    (33, 64, (8, 8), {}),
    (32, 32, (8, 8), {"kernel": (1, 1), "padding": 0}),
    (17, 64, (9, 9), {"pool": ops.Pool("max", 2, 3, 1)}),  # some of a window is off the image
    (18, 32, (13, 13), {"dilation": 2, "padding": (2, 0)}),
    (16, 32, (11, 9), {"stride": 2, "kernel": (2, 3), "pool": ops.Pool("max", (1, 2))}),
    (32, 32, (8, 8), {"pool": ops.Pool("avg")}),
    (1, 8, (9, 9), {"pool": ops.Pool("avg", 2, 1)}),
]
cases = pytest.mark.parametrize("case", _CASES, ids=lambda c: "-".join(map(str, c)))


def _made(case: tuple[int, int, tuple[int, int], dict[str, Any]], n: int = 5) -> tuple[Any, Any]:
    """Image, weight, bias in bfloat16, and what else the block is called with."""
    c_in, c_out, size, options = case
    options = {"padding": 1, **options}
    kernel = options.pop("kernel", (3, 3))
    scale = (c_in * kernel[0] * kernel[1]) ** -0.5
    shapes = (n, c_in, *size), (c_out, c_in, *kernel), (c_out,)
    made = [torch.randn(shape) * by for shape, by in zip(shapes, (1, scale, 0.3), strict=True)]
    made[0] = made[0].contiguous(memory_format=torch.channels_last)
    return [each.bfloat16().requires_grad_() for each in made], options


def _results(tensors: Sequence[Any], options: Any, algorithm: str) -> list[Tensor]:
    output = ops.conv_relu_pool(*tensors, **options, algorithm=algorithm)
    grad = torch.linspace(-1, 1, output.numel()).bfloat16().to(output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, tensors, grad)]


@able
@cases
def test_the_error_is_that_of_one_rounding_and_no_more_than_torchs(
    monkeypatch: pytest.MonkeyPatch, case: Any
) -> None:
    monkeypatch.setattr(fused, "compose", lambda name: pytest.fail("computed by its parts"))
    tensors, options = _made(case)
    found = _results(tensors, options, "fused")
    of_torch = _results(tensors, options, "native")
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    exact = _results(doubles, options, "native")
    for name, ours, torchs, true in zip("yxwb", found, of_torch, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert ours.shape == true.shape
        error, other = ((each.double() - true).norm() for each in (ours, torchs))
        assert error <= 1.5 * other + 1e-6 * true.norm(), name
    if "pool" in options and options["pool"].kind == "avg":
        return  # of numbers that are rounded themselves, as torch's
    # of the gradients the norm alone counts: a winner may be another where two round to the same
    within = 0.51 * _UNIT * exact[0].abs() + 1e-5
    assert bool(((found[0].double() - exact[0]).abs() <= within).all())


@able
@cases
def test_gradients_are_the_exact_ones_of_the_same_winners(case: Any) -> None:
    """Rounded once: against float64 of the same code, element by element."""
    (image, weight, bias), options = _made(case)
    pool = options.pop("pool", None) or ops.Pool()
    window = [options.get(name, default) for name, default in _WINDOW]
    made = fused.with_code(image, weight, bias, *window, 1, pool)
    assert made is not None
    output, code, plan = made
    grad = torch.randn_like(output)
    found = torch.autograd.grad(output, (image, weight, bias), grad)
    divisor = None if plan.divisor is None else plan.divisor.double()
    wide = grad.double().contiguous(memory_format=torch.channels_last)
    z_grad = cpu.pool_spread(wide, code, plan.pool, divisor)
    if divisor is not None:  # the dense way rounds ∂L/∂z, too
        z_grad = z_grad.bfloat16().double()
    double = [each.detach().double().requires_grad_() for each in (image, weight, bias)]
    of_image, *others = double
    conv = plan.conv
    z = F.conv2d(conv.add_extra(of_image), *others, conv.stride, conv.padding, conv.dilation)  # pyright: ignore[reportCallIssue]
    for name, ours, true in zip("xwb", found, torch.autograd.grad(z, double, z_grad), strict=True):
        within = 0.51 * _UNIT * true.abs() + 1e-5 * true.abs().max()
        assert bool(((ours.double() - true).abs() <= within).all()), name


_WINDOW = (("stride", 1), ("padding", 0), ("dilation", 1))


@able
@cases
def test_the_number_of_threads_changes_no_bit(case: Any) -> None:
    import numba

    tensors, options = _made(case, n=9)
    threads, results = numba.get_num_threads(), []
    torchs = torch.get_num_threads()
    for count in sorted({1, threads}):
        numba.set_num_threads(count)
        torch.set_num_threads(count)
        results.append(_results(tensors, options, "fused"))
    numba.set_num_threads(threads)
    torch.set_num_threads(torchs)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@able
def test_layers_with_whole_vectors_multiply_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("grad_weight", "grad_input", "max_forward"):
        count_calls(monkeypatch, bfloat16, name, calls)
    for case, expected in ((_CASES[4], 3), (_CASES[2], 2), (_CASES[0], 0), (_CASES[5], 0)):
        calls.clear()
        _results(*_made(case), "fused")
        assert len(calls) == expected


@able
@pytest.mark.parametrize("case", [_CASES[4], _CASES[6], (128, 256, (3, 3), {})], ids=str)
def test_an_image_alone_has_the_bits_that_it_has_among_others(case: Any) -> None:
    (image, weight, bias), options = _made(case, n=37)
    together = ops.conv_relu_pool(image, weight, bias, **options)
    alone = [ops.conv_relu_pool(each, weight, bias, **options) for each in image.split(1)]
    assert torch.equal(together, torch.cat(alone))


@able
def test_weights_that_are_part_of_a_longer_row_are_read_where_they_are() -> None:
    (image, weight, bias), options = _made(_CASES[4])
    expected = ops.conv_relu_pool(image, weight, bias, **options)
    row = torch.cat([torch.zeros(1), weight.detach().permute(0, 2, 3, 1).flatten()]).bfloat16()
    part = row[1:].view(64, 3, 3, 32).permute(0, 3, 1, 2)
    assert torch.equal(ops.conv_relu_pool(image, part, bias, **options), expected)


@able
def test_autocast_computes_by_the_kernels_and_gives_gradients_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fused, "compose", lambda name: pytest.fail("computed by its parts"))
    tensors, options = _made(_CASES[4])
    wide = [each.detach().float().requires_grad_() for each in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        output = ops.conv_relu_pool(*wide, **options)
    grads = torch.autograd.grad(output.float().sum(), wide)
    assert output.dtype == torch.bfloat16
    assert {each.dtype for each in grads} == {torch.float32}
    assert torch.equal(output, _results(tensors, options, "fused")[0])


@able
@pytest.mark.parametrize("c_in", [1, 16])
def test_a_nan_wins_and_what_has_no_say_leaves_the_gradients_finite(c_in: int) -> None:
    image = torch.zeros(2, c_in, 6, 6, dtype=torch.bfloat16)
    image[0, 0, 0, 1], image[1, 0, 2, 2] = torch.nan, torch.inf
    image[1, 0, 4, 4] = -torch.inf
    weight = torch.zeros(16, c_in, 1, 1, dtype=torch.bfloat16)
    weight[:, 0] = 1
    found = ops.conv_relu_pool(image, weight)
    expected = ops.conv_relu_pool(image, weight, algorithm="native")
    torch.testing.assert_close(found, expected, equal_nan=True)
    if c_in == 16:
        image[0, 0, 0, 1], image[1, 0, 2, 2] = 1, 1  # the one that is left loses
        leaf = weight.clone().requires_grad_()
        (grad,) = torch.autograd.grad(ops.conv_relu_pool(image, leaf).sum(), leaf)
        assert bool(grad.isfinite().all())


@able
@pytest.mark.parametrize("c_out", [16, 32])
@pytest.mark.parametrize("first", [0, 1])
def test_a_nan_of_either_sign_wins_over_what_follows(c_out: int, first: int) -> None:
    """∞ − ∞ is a NaN with a sign on most processors."""
    image = torch.ones(1, 16, 2, 2, dtype=torch.bfloat16)
    image[0, :2, 0, first] = torch.inf
    weight = torch.ones(c_out, 16, 1, 1, dtype=torch.bfloat16)
    weight[:, 1] = -1
    assert bool(ops.conv_relu_pool(image, weight, algorithm="fused").isnan().all())


@able
def test_a_block_without_bias_asks_no_default() -> None:
    (image, weight, _), options = _made(_CASES[4])
    expected = ops.conv_relu_pool(image, weight, **options)
    torch.set_default_dtype(torch.float16)
    try:
        assert torch.equal(ops.conv_relu_pool(image, weight, **options), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@able
def test_the_kernel_of_pairs_refuses_what_it_does_not_sum() -> None:
    (image, weight, bias), options = _made(_CASES[4])
    made = fused.with_code(image, weight, bias, 1, options["padding"], 1, 1, ops.Pool())
    assert made is not None
    conv, windows = made[2].conv, made[2].pool
    wide, kernels, shift = (each.detach().float() for each in (image, weight, bias))
    with pytest.raises(
        RuntimeError, match=r"takes bfloat16 of at least 16 channels .* not torch.float32"
    ):
        cpu.forward_pairs(wide, kernels, shift, conv, windows)


@able
def test_the_gradient_of_the_gradient_takes_the_dense_way() -> None:
    tensors, options = _made(_CASES[2])
    seconds = []
    for algorithm in ("fused", "native"):
        output = ops.conv_relu_pool(*tensors, **options, algorithm=algorithm)
        (grad,) = torch.autograd.grad(output.square().sum(), tensors[0], create_graph=True)
        seconds.append(torch.autograd.grad(grad.sum(), tensors[1])[0].float())
    assert (seconds[0] - seconds[1]).norm() < 0.02 * seconds[1].norm()


@able
@pytest.mark.parametrize("c_in", [1, 32])
def test_norms_of_each_image_are_those_of_float32(c_in: int) -> None:
    (image, weight, bias), options = _made((c_in, 16, (8, 8), {}))
    made = fused.with_code(image, weight, bias, 1, options["padding"], 1, 1, ops.Pool())
    assert made is not None
    output, code, plan = made
    grad = torch.randn_like(output)
    found = block_squared_norms(grad, code, image, plan)
    wide = block_squared_norms(grad.float(), code, image.float(), plan)
    assert torch.equal(found.weight, wide.weight)
    assert torch.equal(found.bias, wide.bias)


@able
def test_a_processor_without_the_instructions_takes_the_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors, options = _made(_CASES[4])
    assert cpu.dtypes_in_words() == "float32, float64 and bfloat16"
    monkeypatch.setattr(bfloat16, "AVAILABLE", False)
    monkeypatch.setattr(fused, "compose", lambda name: lambda *arguments: "by its parts")
    # a plan may be kept from before
    monkeypatch.setattr(fused, "remembered", lambda make, tensors, *rest: make(*tensors, *rest))
    assert ops.conv_relu_pool(*tensors, **options) == "by its parts"
    assert cpu.dtypes_in_words() == "float32 and float64"


@able
@pytest.mark.parametrize("case", [_CASES[0], _CASES[4]], ids=["few channels", "pairs"])
def test_compiled_mapped_and_empty(case: Any) -> None:
    tensors, options = _made(case)
    found = _results(tensors, options, "fused")

    def block(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.conv_relu_pool(image, weight, bias, **options)

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")(*tensors)
    grad = torch.linspace(-1, 1, compiled.numel()).bfloat16().view(compiled.shape)
    again = [compiled.detach(), *torch.autograd.grad(compiled, tensors, grad)]
    assert all(map(torch.equal, found, again))
    image, weight, bias = (each.detach() for each in tensors)
    mapped = torch.func.vmap(block, (0, None, None))(image.unsqueeze(1), weight, bias)
    # the library's convolution of one image may add up in another order than that of five
    torch.testing.assert_close(mapped.squeeze(1), found[0], rtol=_UNIT, atol=1e-3)
    nothing = [image[:0].requires_grad_(), *tensors[1:]]
    output, _, grad_weight, grad_bias = _results(nothing, options, "fused")
    assert output.shape == (0, *found[0].shape[1:])
    assert not grad_weight.any()
    assert not grad_bias.any()


@able
@pytest.mark.parametrize("case", [_CASES[0], _CASES[4]], ids=["few channels", "pairs"])
def test_the_operators_pass_torchs_own_check(case: Any) -> None:
    (image, weight, bias), options = _made(case)
    image, weight, bias = (each.detach() for each in (image, weight, bias))
    made = fused.with_code(image, weight, bias, 1, options["padding"], 1, 1, ops.Pool())
    assert made is not None
    output, code, plan = made
    records = plan.conv, plan.pool
    pairs = {cpu.forward_pairs: (image, weight, bias, *records)} if image.size(1) > 1 else {}
    checks: dict[Any, tuple[Any, ...]] = {
        **pairs,
        cpu.forward: (image, weight, bias, *records, None),
        cpu.pool_spread: (output, code, plan.pool, None),
        cpu.winners_grad_weight: (output, code, image, *records),
        cpu.winners_grad_input: (output, code, weight, *records),
    }
    for operator, arguments in checks.items():
        flat = tuple(flat_arguments(arguments))
        torch.library.opcheck(
            operator.operator, flat, test_utils=("test_schema", "test_faketensor")
        )
