"""Results lie in memory as torch's: what views them after torch's op views them after ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.ops.layout import in_layout, is_channels_last
from tests.ops.calls import LOSSES, activations

WEIGHT, BIAS = torch.randn(6, 4, 3, 3), torch.randn(6)
CALLS: dict[str, list[tuple[Any, ...]]] = {
    "conv2d": [
        (WEIGHT, BIAS),
        (WEIGHT, None, 2, 1),
        (torch.randn(6, 2, 1, 1), BIAS, 1, 0, 1, 2),
        (torch.randn(4, 1, 3, 3), None, 1, 1, 1, 4),
        (torch.randn(4, 1, 1, 1), None, 1, 0, 1, 4),  # whose strides say nothing
    ],
    "conv_relu_pool": [
        (torch.randn(4, 1, 1, 1), None, 1, 0, 1, 4, ops.Pool()),
        (WEIGHT, BIAS, 1, 1, 1, 1, ops.Pool()),
        (WEIGHT, BIAS, 1, 1, 1, 1, ops.Pool("avg", 2)),
    ],
    "conv_tanh_pool": [
        (WEIGHT, BIAS, 1, 1, 1, 1, None),
        (WEIGHT, BIAS, 1, 1, 1, 1, ops.Pool("avg", 2)),
    ],
    "max_pool2d": [(2,), (3, 2, 1)],
    "avg_pool2d": [(2,), (3, 2, 1)],
    "adaptive_avg_pool2d": [(3,)],
    "batch_norm": [(torch.zeros(4), torch.ones(4)), (None, None, None, None, True)],
    "batch_norm_act": [(torch.zeros(4), torch.ones(4)), (None, None, None, None, True)],
    "dropout": [(0.5,)],
}
CALLS |= {op: [()] for op in activations(*CALLS)}


def test_every_op_on_images_is_among_the_calls() -> None:
    assert set(ops.op_names()) - set(CALLS) == {"linear", "linear_act", *LOSSES}


def _cases() -> list[Any]:
    return [
        pytest.param(op, algorithm, arguments, id=f"{op}-{algorithm}-{index}")
        for op, calls in CALLS.items()
        for algorithm in (*ops.algorithm_names(op), ops.AUTO)
        for index, arguments in enumerate(calls)
    ]


@pytest.mark.parametrize(("op", "algorithm", "arguments"), _cases())
def test_what_torch_lets_one_view_ours_does(
    op: str, algorithm: str, arguments: tuple[Any, ...]
) -> None:
    image = torch.randn(2, 4, 9, 8)
    for plain in (image, torch.cat([image, image], 3)[..., ::2], image[:, :, 1:, 1:]):
        found = ops.get_algorithm(op, algorithm)(plain, *arguments)
        assert found.is_contiguous()
        found.view(len(image), -1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_layout_is_told_by_the_strides(channels: int, layout: torch.memory_format) -> None:
    image = torch.randn(2, channels, 5, 6)
    found = in_layout(image, layout)
    assert torch.equal(found, image)
    assert found.is_contiguous(memory_format=layout)
    assert is_channels_last(found) == (layout is torch.channels_last)
    weight = torch.randn(4, channels, 3, 3)  # torch reads the same from them
    output = torch.nn.functional.conv2d(found, weight)
    assert is_channels_last(output) == (layout is torch.channels_last)


@pytest.mark.parametrize("op", ["conv2d", "conv_relu_pool", "conv_tanh_pool"])
def test_one_channel_and_a_kernel_of_one_pixel_are_plain(op: str) -> None:
    """As torch takes them: strides of (3, 1, 1, 1) are those of both layouts."""
    image, weight = torch.randn(2, 1, 9, 8), torch.randn(3, 1, 1, 1)
    more = {"conv_relu_pool": (1, 0, 1, 1, ops.Pool()), "conv_tanh_pool": (1, 0, 1, 1, None)}
    for algorithm in ops.algorithm_names(op):
        found = ops.get_algorithm(op, algorithm)(image, weight, None, *more.get(op, ()))
        found.view(len(image), -1)
    assert not is_channels_last(weight)
    assert not is_channels_last(torch.randn(5, 1, 1, 1).to(memory_format=torch.channels_last))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("algorithm", ["im2col", "implicit_gemm", "native"])
def test_the_gradient_of_a_kernel_lies_as_the_kernel(
    algorithm: str, layout: torch.memory_format
) -> None:
    """Autograd copies it otherwise, which of 512 → 512 channels takes longer than the gradient itself."""
    image = torch.randn(8, 32, 4, 5).to(memory_format=layout)
    weight = torch.randn(48, 16, 3, 3).to(memory_format=layout).requires_grad_()
    output = ops.conv2d(image, weight, None, 1, 1, 1, 2, algorithm=algorithm)
    (grad,) = torch.autograd.grad(output.square().sum(), weight)
    assert grad.stride() == weight.stride()
    expected = F.conv2d(image, weight, None, 1, 1, 1, 2).square().sum()
    torch.testing.assert_close(grad, torch.autograd.grad(expected, weight)[0], rtol=1e-3, atol=1e-2)
