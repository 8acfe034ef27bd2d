"""The block from its parts: convolution with bias, then ReLU, then pooling, one op each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cnnexp.geometry.pooling import Pool
from cnnexp.ops.avg_pool2d import avg_pool2d
from cnnexp.ops.conv2d import conv2d
from cnnexp.ops.max_pool2d import max_pool2d
from cnnexp.ops.registry import Algorithm, register, resolve_algorithm
from cnnexp.ops.relu import relu

__all__ = ["NAMES", "compose", "pooled", "relu_pool"]

NAMES = ("native", "reference", "im2col", "direct")


def compose(algorithm: str) -> Callable[..., Tensor]:
    """The block whose parts are computed with ``algorithm``."""

    def conv_relu_pool(
        input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
    ) -> Tensor:
        *convolution, pool = arguments
        image = conv2d(input, weight, bias, *convolution, algorithm=algorithm)
        return relu_pool(image, pool, algorithm)

    return conv_relu_pool


def relu_pool(image: Tensor, pool: Pool, algorithm: str = "direct") -> Tensor:
    """The block without its convolution, computed with ``algorithm``."""
    return pooled(relu(image, algorithm=resolve_algorithm("relu", algorithm)), pool, algorithm)


def pooled(image: Tensor, pool: Pool, algorithm: str = "direct") -> Tensor:
    """The pooling of a block, computed with ``algorithm``."""
    window = pool.kernel_size, pool.stride, pool.padding
    if pool.kind == "avg":
        counts = pool.count_include_pad, pool.divisor_override
        return avg_pool2d(image, *window, pool.ceil_mode, *counts, algorithm=algorithm)
    found = max_pool2d(image, *window, pool.dilation, pool.ceil_mode, algorithm=algorithm)
    assert isinstance(found, Tensor)  # no indices were asked for
    return found


for _name in NAMES:
    register(
        Algorithm(
            op="conv_relu_pool",
            name=_name,
            function=compose(_name),
            summary=f"convolution, ReLU and pooling one after the other, each by '{_name}'",
            dtypes=(),
        )
    )
