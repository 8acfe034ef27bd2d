"""Compile the CPU kernels of the fused block in one dtype, so that workers find them in numba's cache.

    python -m tests.compile_kernels float32

Started by conftest.py before the workers of a test run: without it each of them would compile the same.
"""

from __future__ import annotations

import itertools
import sys

import torch

from cnnexp import ops
from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import bfloat16
from cnnexp.kernels.cpu import conv_relu_pool as cpu
from cnnexp.kernels.cpu.norms import winners_squared_norms


def main(name: str) -> None:
    """Call every kernel, forward, backward and backward again; float64 in the other order.

    So two processes that compile at a time seldom write the same index of numba's cache at a time.
    """
    torch.set_num_threads(1)
    if name == "bfloat16" and not bfloat16.AVAILABLE:
        return
    cases = list(itertools.product(("max", "avg"), (3, 16), (5, 16)))
    for kind, c_in, c_out in reversed(cases) if name == "float64" else cases:
        dtype = getattr(torch, name)
        image = torch.randn(2, c_in, 8, 8, dtype=dtype, requires_grad=True)
        weight = torch.randn(c_out, c_in, 3, 3, dtype=dtype, requires_grad=True)
        bias = torch.randn(c_out, dtype=dtype, requires_grad=True)
        for padding in (0, 1):
            output = ops.conv_relu_pool(image, weight, bias, padding=padding, pool=ops.Pool(kind))
            output.sum().backward()
        output = ops.conv_relu_pool(image, weight, bias, pool=ops.Pool(kind))
        (grad,) = torch.autograd.grad(output.square().sum(), image, create_graph=True)
        grad.sum().backward()
    if name != "bfloat16":  # whose norms are those of float32
        _compile_norms(getattr(torch, name))
        _compile_batch_norms(getattr(torch, name))
        _compile_depthwise(getattr(torch, name))
        _compile_narrow(getattr(torch, name))
        matrix = torch.randn(5, 5, dtype=getattr(torch, name))
        ops.linear(matrix, matrix, matrix[0], algorithm="fused")
        _compile_linear_acts(getattr(torch, name))


def _compile_linear_acts(dtype: torch.dtype) -> None:
    """Call the kernels of linear layers, those of bfloat16 beside float32's: float64 has none."""
    for kind in (dtype, torch.bfloat16) if dtype == torch.float32 else ():
        matrix = torch.randn(32, 32).to(kind).requires_grad_()
        ops.linear_act(matrix, matrix, matrix[0]).sum().backward()
        if kind == torch.bfloat16:  # as within autocast
            weight = torch.randn(32, 32, requires_grad=True)
            with torch.autocast("cpu", torch.bfloat16):
                ops.linear_act(matrix, weight).sum().backward()


def _compile_norms(dtype: torch.dtype) -> None:
    """Call the kernels of the squared norms, those of a block's gradients by image."""
    conv, pool = Conv2dGeometry((4, 4), (3, 3), padding=(1, 1)), WindowGeometry((4, 4), (4, 4))
    image = torch.randn(2, 16, 4, 4, dtype=dtype)
    pooled, code = cpu.forward(image, torch.randn(5, 16, 3, 3, dtype=dtype), None, conv, pool, None)
    for way in ("window", "gram", "rows"):
        winners_squared_norms(pooled, code, image, conv, pool, way)
    winners_squared_norms(pooled, code, image[:, :3], conv, pool, "written")


def _compile_batch_norms(dtype: torch.dtype) -> None:
    """Call the kernels of batch normalisation, those of bfloat16 beside float32's."""
    for kind in (dtype, torch.bfloat16) if dtype == torch.float32 else (dtype,):
        image = torch.randn(2, 3, 4, 4).to(kind).requires_grad_()
        ops.batch_norm_act(image, torch.zeros(3), torch.ones(3), training=True).sum().backward()


def _compile_depthwise(dtype: torch.dtype) -> None:
    """Call the kernels of depthwise convolution, those of bfloat16 beside float32's."""
    for kind in (dtype, torch.bfloat16) if dtype == torch.float32 else (dtype,):
        image = torch.randn(2, 3, 4, 4).to(kind).requires_grad_()
        weight = torch.randn(3, 1, 3, 3).to(kind).requires_grad_()
        ops.conv2d(image, weight, groups=3, algorithm="depthwise").sum().backward()


def _compile_narrow(dtype: torch.dtype) -> None:
    """Call the kernels of convolutions of few channels, those of bfloat16 beside float32's."""
    for kind in (dtype, torch.bfloat16) if dtype == torch.float32 else (dtype,):
        image = torch.randn(2, 3, 4, 4).to(kind).requires_grad_()
        weight = torch.randn(2, 3, 3, 3).to(kind).requires_grad_()
        for pool in (None, ops.Pool("avg")):
            ops.conv_tanh_pool(image, weight, pool=pool).sum().backward()


if __name__ == "__main__":
    main(sys.argv[1])
