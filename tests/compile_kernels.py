"""Compile the CPU kernels of the fused block, so that the workers of a test run find them in numba's cache.

Started beside the workers by conftest.py: without it each of them would compile the same kernels.
"""

from __future__ import annotations

import itertools

import torch

from cnnexp import ops


def main() -> None:
    """Call every kernel in both dtypes, forward, backward and backward again."""
    torch.set_num_threads(1)
    for dtype, kind, c_in, c_out in itertools.product(
        (torch.float32, torch.float64), ("max", "avg"), (3, 16), (5, 16)
    ):
        image = torch.randn(2, c_in, 8, 8, dtype=dtype, requires_grad=True)
        weight = torch.randn(c_out, c_in, 3, 3, dtype=dtype, requires_grad=True)
        bias = torch.randn(c_out, dtype=dtype, requires_grad=True)
        for padding in (0, 1):
            output = ops.conv_relu_pool(image, weight, bias, padding=padding, pool=ops.Pool(kind))
            output.sum().backward()
        output = ops.conv_relu_pool(image, weight, bias, pool=ops.Pool(kind))
        (grad,) = torch.autograd.grad(output.square().sum(), image, create_graph=True)
        grad.sum().backward()


if __name__ == "__main__":
    main()
