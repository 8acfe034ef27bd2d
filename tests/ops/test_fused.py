"""What the fused block keeps, where it computes by its parts, and that it is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.kernels.cpu import conv_relu_pool as cpu
from cnnexp.kernels.cpu import narrow_blocks, winograd
from cnnexp.kernels.cpu.tables import pool_windows, receptive_fields
from cnnexp.kernels.operators import flat_arguments
from cnnexp.ops.conv_relu_pool import fused
from tests.ops.counting import count_calls


def _block(
    c_in: int = 3, dtype: torch.dtype = torch.float32, size: int = 8, c_out: int = 5
) -> list[Tensor]:
    shapes = (2, c_in, size, size), (c_out, c_in, 3, 3), (c_out,)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def _saved_bytes(algorithm: str, pool: ops.Pool) -> int:
    image, weight, bias = _block(16)
    kept: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in (image, weight, bias)}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        output = ops.conv_relu_pool(image, weight, bias, padding=1, pool=pool, algorithm=algorithm)
    del output
    return sum(kept.values())


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_one_byte_a_pooled_element_is_kept_beside_input_and_weight(kind: str) -> None:
    assert _saved_bytes("fused", ops.Pool(kind)) == 2 * 5 * 4 * 4
    # what torch keeps: the ReLU's output, for max-pooling its int64 indices too
    assert _saved_bytes("native", ops.Pool(kind)) >= 2 * 5 * 8 * 8 * 4


_KERNELS = {
    ("avg", 3, 5): [(cpu, "forward")],
    ("avg", 16, 5): [(cpu, "forward")],
    ("max", 3, 5): [
        (narrow_blocks, "max_forward"),
        (narrow_blocks, "max_grad_input"),
        (narrow_blocks, "max_grad_weight"),
    ],
    ("max", 3, 16): [
        (cpu, "forward_few_channels"),
        (cpu, "winners_grad_input"),
        (cpu, "winners_grad_weight"),
    ],
    ("max", 16, 5): [
        (cpu, "forward"),
        (cpu, "winners_grad_input"),
        (cpu, "winners_grad_weight"),
    ],
}


@pytest.mark.parametrize(("kind", "c_in", "c_out"), _KERNELS)
def test_the_kernels_run(monkeypatch: pytest.MonkeyPatch, kind: str, c_in: int, c_out: int) -> None:
    """Not the parts in their place, and neither the dense gradients where the sparse ones pay."""
    calls: list[tuple[object, str]] = []
    for module, name in {each for kernels in _KERNELS.values() for each in kernels}:
        count_calls(monkeypatch, module, name, calls, (module, name))
    monkeypatch.setattr(fused, "compose", lambda name: pytest.fail("computed by its parts"))
    image, weight, bias = _block(c_in, c_out=c_out)
    output = ops.conv_relu_pool(image, weight, bias, pool=ops.Pool(kind))
    torch.autograd.grad(output.sum(), (image, weight, bias))
    expected = _KERNELS[kind, c_in, c_out]
    assert calls[0] == expected[0]
    assert sorted(map(str, calls)) == sorted(map(str, expected))


WINDOWS = {
    "side by side": ops.Pool(),
    "apart": ops.Pool("max", 2, 3),
    "over each other": ops.Pool("max", 3, 2),
    "dilated": ops.Pool("max", 2, 2, 0, 2),
    "of five": ops.Pool("max", (1, 5), (1, 2)),
    "padded": ops.Pool("max", 3, 2, 1),
    "beyond the edge": ops.Pool("max", (2, 3), ceil_mode=True),
}


@pytest.mark.parametrize("last", [False, True], ids=["plain", "channels last"])
@pytest.mark.parametrize("c_in", [1, 3, 6])
@pytest.mark.parametrize("window", WINDOWS)
def test_few_channels_have_the_winners_of_torch(window: str, c_in: int, last: bool) -> None:
    """Of equals the first, of NaN any: small whole numbers, of which sums are exact."""
    torch.manual_seed(0)
    pool = WINDOWS[window]
    image = torch.randint(-1, 2, (3, c_in, 11, 13)).float()
    image[1, 0, 4, 5] = float("nan")
    weight, bias = torch.randint(-1, 2, (5, c_in, 3, 2)).float(), torch.tensor([-1.0, 0, 1, 2, -9])
    if last:
        image = image.contiguous(memory_format=torch.channels_last)
    results = []
    for algorithm in ("native", "fused"):
        given = x, w, b = [each.clone().requires_grad_() for each in (image, weight, bias)]
        output = ops.conv_relu_pool(x, w, b, padding=1, pool=pool, algorithm=algorithm)
        factor = torch.arange(output.numel()).view(output.shape) % 7 - 3.0
        (output * factor).nan_to_num().sum().backward()
        results.append([output, *(each.grad for each in given)])
    theirs, ours = results
    assert fused.with_code(image, weight, bias, 1, 1, 1, 1, pool)[2].narrow  # pyright: ignore[reportOptionalSubscript]
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)


def _forwards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which kernel of the forward ran: Winograd's, the library's convolution, or both in a row."""
    calls: list[str] = []
    for module, name in ((fused, "forward_winograd"), (cpu, "forward")):
        count_calls(monkeypatch, module, name, calls)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("padding", [0, 1, (2, 1), "same"], ids=str)
@pytest.mark.parametrize(("c_in", "c_out"), [(16, 16), (20, 37), (32, 64)])
def test_winograd_is_the_direct_sum(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, padding: int | str, c_in: int, c_out: int
) -> None:
    calls = _forwards(monkeypatch)
    image = torch.randn(5, c_in, 9, 12, dtype=dtype)
    weight, bias = torch.randn(c_out, c_in, 3, 3, dtype=dtype), torch.randn(c_out, dtype=dtype)
    output = ops.conv_relu_pool(image, weight, bias, padding=padding)
    assert calls == ["forward_winograd"]
    exact = ops.conv_relu_pool(
        image.double(), weight.double(), bias.double(), padding=padding, algorithm="native"
    )
    error = (output.double() - exact).abs().max() / exact.abs().max()
    assert error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    "arguments",
    [
        {"stride": 2},
        {"dilation": 2},
        {"pool": ops.Pool("max", 3)},
        {"pool": ops.Pool("max", 2, 2, 1)},
        {"pool": ops.Pool("max", 2, 1)},
        {"pool": ops.Pool(ceil_mode=True)},
        {"pool": ops.Pool("avg")},
    ],
    ids=str,
)
def test_winograd_is_for_windows_that_are_its_tiles(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    calls = _forwards(monkeypatch)
    image, weight = torch.randn(2, 16, 11, 11), torch.randn(16, 16, 3, 3)
    output = ops.conv_relu_pool(image, weight, **arguments)
    assert calls == ["forward"]
    torch.testing.assert_close(
        output,
        ops.conv_relu_pool(image, weight, **arguments, algorithm="native"),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 2e38, -2e38], ids=str)
def test_what_winograd_cannot_add_up_is_summed_directly(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """The transforms add up to four numbers of a tile, of which one may be all that fits."""
    calls = _forwards(monkeypatch)
    image, weight = torch.ones(2, 16, 8, 8), torch.zeros(16, 16, 3, 3)
    weight[:, :, 1, 1] = 0.125 * torch.eye(16)  # shows each pixel
    image[1, 3, 4:6, 4:6] = value
    output = ops.conv_relu_pool(image, weight, padding=1)
    assert calls == ["forward_winograd", "forward"]
    expected = ops.conv_relu_pool(image, weight, padding=1, algorithm="native")
    torch.testing.assert_close(output, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "groups", "pool"),
    [
        (torch.float16, 1, ops.Pool()),
        (torch.float32, 3, ops.Pool()),
        (torch.float32, 1, ops.Pool("avg", 3)),
        (torch.float32, 1, ops.Pool("max", 16, padding=5)),
    ],
    ids=str,
)
def test_what_has_no_kernel_is_computed_by_its_parts(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, groups: int, pool: ops.Pool
) -> None:
    parts: list[str] = []
    compose = fused.compose
    monkeypatch.setattr(fused, "compose", lambda name: parts.append(name) or compose(name))
    image, weight = torch.randn(1, 3, 18, 18, dtype=dtype), torch.randn(6, 3 // groups, 3, 3)
    output = ops.conv_relu_pool(image, weight.to(dtype), groups=groups, pool=pool)
    assert parts == ["direct"]
    assert (
        output.shape
        == ops.conv_relu_pool(
            image, weight.to(dtype), groups=groups, pool=pool, algorithm="native"
        ).shape
    )


def test_ties_go_to_the_first_and_a_nan_wins_as_in_torch() -> None:
    image = torch.tensor([[[[1.0, 1.0, torch.nan, 2.0], [1.0, 1.0, 3.0, torch.nan]]]])
    weight = torch.ones(1, 1, 1, 1)
    found, expected = [], []
    for results, algorithm in ((found, "fused"), (expected, "native")):
        x = image.clone().requires_grad_()
        output = ops.conv_relu_pool(x, weight, algorithm=algorithm)
        results += [output.detach(), torch.autograd.grad(output.sum(), x)[0]]
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found[1].tolist() == [[[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("c_in", [1, 20])
@pytest.mark.parametrize("c_out", [3, 37])
def test_odd_numbers_of_channels(c_in: int, c_out: int, dtype: torch.dtype) -> None:
    """Vectors have 4 to 16 lanes: the rest is computed one by one."""
    image = torch.randn(3, c_in, 9, 7, dtype=dtype, requires_grad=True)
    weight = torch.randn(c_out, c_in, 3, 3, dtype=dtype, requires_grad=True)
    bias = torch.randn(c_out, dtype=dtype, requires_grad=True)
    results = []
    for algorithm in ("fused", "native"):
        output = ops.conv_relu_pool(image, weight, bias, padding="same", algorithm=algorithm)
        grad = torch.linspace(-1, 1, output.numel(), dtype=dtype).reshape(output.shape)
        results.append([output, *torch.autograd.grad(output, (image, weight, bias), grad)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_windows_that_read_only_what_was_computed_from_padding() -> None:
    """The row of z that a window reads comes from padding alone; the forward cuts the other off."""
    pool = ops.Pool(kernel_size=(4, 1), stride=2, padding=(1, 0))
    for c_in in (2, 16):
        image, weight = torch.randn(2, c_in, 2, 2), torch.randn(5, c_in, 1, 1)
        arguments = image, weight, torch.randn(5), 3, 2, (2, 1), 1, pool
        expected = ops.conv_relu_pool(*arguments, algorithm="native")
        torch.testing.assert_close(ops.conv_relu_pool(*arguments), expected)


def test_the_number_of_threads_changes_no_bit() -> None:
    import numba

    image, weight, bias = _block(16, size=14)
    results = []
    threads = numba.get_num_threads()
    for count in {1, threads}:
        numba.set_num_threads(count)
        output = ops.conv_relu_pool(image, weight, bias, padding=1)
        results.append(torch.autograd.grad(output.square().sum(), (image, weight, bias)))
    numba.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_the_operators_pass_torchs_own_check() -> None:
    image, weight, bias = (t.detach() for t in _block(3))
    from cnnexp.geometry.convolution import conv2d_geometry
    from cnnexp.geometry.windows import WindowGeometry

    conv = conv2d_geometry(image, weight, bias, 1, 1, 1, 1)
    pool = WindowGeometry(conv.output_size, (2, 2), (2, 2))
    records = conv, pool
    output, code = cpu.forward_few_channels(image, weight, bias, *records)
    z = F.conv2d(image, weight, padding=1).contiguous(memory_format=torch.channels_last)
    checks = {
        cpu.forward_few_channels: (image, weight, bias, *records),
        cpu.forward: (image, weight, bias, *records, None),
        winograd.forward_winograd: (image, weight, bias, *records),
        cpu.pool_spread: (output, code, pool, None),
        cpu.pool_gather: (z, code, pool, None),
        cpu.winners_grad_weight: (output, code, image, *records),
        cpu.winners_grad_input: (output, code, weight, *records),
        narrow_blocks.max_forward: (image, weight, bias, *records),
        narrow_blocks.max_grad_weight: (output, code, image, *records),
        narrow_blocks.max_grad_input: (output, code, weight, *records),
    }
    for operator, arguments in checks.items():
        flat = tuple(flat_arguments(arguments))
        checked = operator.operator  # pyright: ignore[reportFunctionMemberAccess]
        torch.library.opcheck(checked, flat, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.float16}, r"float32.* and \w+ on cpu, not torch\.float16 on cpu"),
        ({"groups": 3}, "groups=1, not 3"),
        ({"window": (16, 16)}, "at most 254 elements a window, not 256"),
    ],
    ids=["dtype", "groups", "window"],
)
def test_the_kernels_refuse_at_the_door_what_they_do_not_know(
    change: dict[str, Any], message: str
) -> None:
    from cnnexp.geometry.convolution import Conv2dGeometry
    from cnnexp.geometry.windows import WindowGeometry

    image = torch.randn(1, 3, 18, 18, dtype=change.get("dtype", torch.float32))
    weight = image.new_ones(3, 3 // change.get("groups", 1), 1, 1)
    conv = Conv2dGeometry((18, 18), (1, 1), groups=change.get("groups", 1))
    pool = WindowGeometry((18, 18), change.get("window", (2, 2)))
    with pytest.raises(RuntimeError, match=message):
        cpu.forward(image, weight, None, conv, pool, None)


def test_tables_of_a_padded_window() -> None:
    from cnnexp.geometry.convolution import Conv2dGeometry
    from cnnexp.geometry.windows import WindowGeometry

    pool = WindowGeometry((3, 3), (2, 2), (2, 2), (1, 1))
    assert pool_windows(pool).tolist() == [
        [[-1, -1, -1, 0], [-1, -1, 1, 2]],
        [[-1, 3, -1, 6], [4, 5, 7, 8]],
    ]
    conv = Conv2dGeometry((3, 3), (3, 3), padding=(1, 1))
    fields = receptive_fields(conv, pool, channels=2)
    assert fields.places[0].tolist() == [-1, -1, -1, 0]
    assert fields.places[3].tolist() == [12, 14, 22, 24]  # rows of 5 padded pixels of 2 channels
    assert (fields.groups.tolist(), fields.rows, fields.step, fields.length) == ([0], 3, 10, 6)
    wide = Conv2dGeometry((3, 3), (3, 3), padding=(2, 2), dilation=(2, 2))
    fields = receptive_fields(wide, pool, channels=2)  # rows of 7 padded pixels of 2 channels
    assert (fields.groups.tolist(), fields.rows, fields.step) == ([0, 28, 56], 3, 4)
    assert fields.length == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "min"}, "pool must be 'max' or 'avg', but got 'min'"),
        ({"kind": "avg", "dilation": 2}, "average-pooling has no dilation, but got 2"),
        ({"divisor_override": 3}, "max-pooling has neither count_include_pad nor divisor_override"),
    ],
)
def test_a_pool_that_cannot_be(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.Pool(**arguments)  # pyright: ignore[reportArgumentType]
