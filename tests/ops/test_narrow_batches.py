"""The kernels of few channels on whole batches, of which several images are summed together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.kernels.cpu import bfloat16

LAST = torch.channels_last
# what is behind the convolution; of the poolings those that the kernels go through by vectors, and others
BEHIND: dict[str, Any] = {
    "nothing": lambda x, w, b, way: ops.conv2d(x, w, b, padding=1, algorithm=way),
    "tanh": lambda x, w, b, way: ops.conv_tanh_pool(x, w, b, padding=1, algorithm=way),
    "tanh, means": lambda x, w, b, way: ops.conv_tanh_pool(
        x, w, b, padding=1, pool=ops.Pool("avg", 2), algorithm=way
    ),
    "tanh, means of windows that overlap": lambda x, w, b, way: ops.conv_tanh_pool(
        x, w, b, padding=1, pool=ops.Pool("avg", 3, 2, 1), algorithm=way
    ),
    "maxima": lambda x, w, b, way: ops.conv_relu_pool(
        x, w, b, padding=1, pool=ops.Pool("max", 2), algorithm=way
    ),
    "maxima of windows that overlap": lambda x, w, b, way: ops.conv_relu_pool(
        x, w, b, padding=1, pool=ops.Pool("max", 3, 2, 1), algorithm=way
    ),
}


def _gradients(compute: Any, way: str, tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    given = [each.detach().to(dtype).requires_grad_() for each in tensors]
    output = compute(*given, way)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).sin()
    grad = weights[torch.randperm(output.numel(), generator=torch.Generator().manual_seed(1))]
    output.backward(grad.view(output.shape).to(dtype))
    return [output.detach(), *(each.grad for each in given if each.grad is not None)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("images", [33, 130])
@pytest.mark.parametrize(
    ("channels", "size"),
    [((1, 6), 20), ((3, 8), 9), ((8, 7), 6), ((13, 12), 5)],
    ids=str,
)
@pytest.mark.parametrize("behind", BEHIND)
def test_gradients_are_those_of_the_formulas_in_float64(
    behind: str, channels: tuple[int, int], size: int, images: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    c_in, c_out = channels
    x = torch.randn(images, c_in, size, size + 1).to(memory_format=layout)
    tensors = [x, torch.randn(c_out, c_in, 3, 3) / 3, torch.randn(c_out)]
    way = "narrow" if behind == "nothing" else "fused"
    ours = _gradients(BEHIND[behind], way, tensors, torch.float32)
    theirs = _gradients(BEHIND[behind], "direct", tensors, torch.float64)
    for one, other in zip(ours, theirs, strict=True):
        error = (one.double() - other).abs().max() / other.abs().max()
        assert error < 3e-6


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float64, 1e-13), (torch.bfloat16, 0.03)], ids=str
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize(("channels", "size"), [((3, 8), 9), ((1, 6), 28), ((6, 5), 12)], ids=str)
@pytest.mark.parametrize("behind", BEHIND)
def test_of_other_precisions_as_well(
    behind: str,
    channels: tuple[int, int],
    size: int,
    layout: torch.memory_format,
    dtype: torch.dtype,
    most: float,
) -> None:
    if dtype == torch.bfloat16 and "maxima" in behind and not bfloat16.AVAILABLE:
        pytest.skip(
            "this processor has no instructions for bfloat16: torch rounds before it compares"
        )
    torch.manual_seed(0)
    c_in, c_out = channels
    image = torch.randn(70, c_in, size, size).to(memory_format=layout)
    given = [image, torch.randn(c_out, c_in, 3, 3) / 3, torch.randn(c_out)]
    tensors = [each.to(dtype) for each in given]
    way = "narrow" if behind == "nothing" else "fused"
    ours = _gradients(BEHIND[behind], way, tensors, dtype)
    theirs = _gradients(BEHIND[behind], "direct", tensors, torch.float64)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.double() - other).norm() < most * other.norm()
