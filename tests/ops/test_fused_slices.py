"""The fused block's gradients of 3×3 kernels go through slices of the input's channels; others do not."""

from __future__ import annotations

import pytest
import torch

from cnnexp import ops
from cnnexp.kernels.cpu import bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("c_in", "c_out"), [(16, 20), (48, 16), (32, 70), (16, 130)])
@pytest.mark.parametrize(
    "pool",
    [ops.Pool(kernel_size=2), ops.Pool(kernel_size=3, stride=2, padding=1)],
    ids=["apart", "overlapping"],
)
@pytest.mark.parametrize("size", [(9, 7), (3, 3)])
def test_slices_of_the_inputs_channels_and_blocks_of_the_outputs(
    size: tuple[int, int], pool: ops.Pool, c_in: int, c_out: int, dtype: torch.dtype
) -> None:
    """The gradients of 3×3 kernels go through 16 channels of the input and 64 of the output at a time."""
    image = torch.randn(19, c_in, *size, dtype=dtype)
    weight = torch.randn(c_out, c_in, 3, 3, dtype=dtype) / 12
    results = []
    for algorithm, exact in (("fused", dtype), ("native", torch.float64)):
        x, w = (tensor.to(exact).requires_grad_() for tensor in (image, weight))
        output = ops.conv_relu_pool(x, w, padding="same", pool=pool, algorithm=algorithm)
        grad = torch.linspace(-1, 1, output.numel(), dtype=exact).reshape(output.shape)
        made = [output, *torch.autograd.grad(output, (x, w), grad)]
        results.append([tensor.detach().double() for tensor in made])
    close = 1e-12 if dtype == torch.float64 else 2e-5
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(
            found, expected, rtol=0, atol=close * float(expected.abs().max())
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [16, 32])
@pytest.mark.parametrize(
    ("kernel", "dilation"),
    [((5, 5), 1), ((1, 1), 1), ((1, 3), 1), ((3, 1), 1), ((3, 3), (1, 2)), ((3, 3), (2, 1))],
    ids=str,
)
@pytest.mark.parametrize("window", [2, 4], ids="windows of {}".format)
def test_kernels_of_other_shapes_have_no_slices(
    kernel: tuple[int, int],
    dilation: int | tuple[int, int],
    window: int,
    channels: int,
    dtype: torch.dtype,
) -> None:
    image = torch.randn(2, channels, 12, 11, dtype=dtype, requires_grad=True)
    weight = torch.randn(16, channels, *kernel, dtype=dtype, requires_grad=True)
    bias = torch.randn(16, dtype=dtype, requires_grad=True)
    results = []
    for algorithm in ("fused", "native"):
        output = ops.conv_relu_pool(
            image,
            weight,
            bias,
            padding="same",
            dilation=dilation,
            pool=ops.Pool(kernel_size=window),
            algorithm=algorithm,
        )
        grad = torch.linspace(-1, 1, output.numel(), dtype=dtype).reshape(output.shape)
        results.append([output, *torch.autograd.grad(output, (image, weight, bias), grad)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(not bfloat16.AVAILABLE, reason="no instructions for bfloat16"),
        ),
    ],
    ids=str,
)
def test_an_infinite_gradient_is_infinite_in_that_of_the_bias(dtype: torch.dtype) -> None:
    image, weight = torch.rand(2, 16, 8, 8, dtype=dtype), torch.rand(16, 16, 3, 3, dtype=dtype)
    bias = torch.ones(16, dtype=dtype, requires_grad=True)
    output = ops.conv_relu_pool(image, weight, bias, algorithm="fused")
    grad = torch.ones_like(output)
    grad[0, 3, 0, 0] = torch.inf
    (found,) = torch.autograd.grad(output, bias, grad)
    expected = torch.full((16,), grad[0, 0].numel() * 2.0, dtype=dtype)
    expected[3] = torch.inf
    torch.testing.assert_close(found, expected)


def test_large_images_are_listed_in_parts() -> None:
    """There are more windows than lists are made for at a time: those of 65,536 gradients."""
    image = torch.randn(1, 16, 132, 68, requires_grad=True)
    weight = torch.randn(64, 16, 3, 3, requires_grad=True)
    results = []
    for algorithm in ("fused", "native"):
        output = ops.conv_relu_pool(image, weight, padding=1, algorithm=algorithm)
        grad = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
        results.append(torch.autograd.grad(output, image, grad))
    assert output.numel() > 1 << 16
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
