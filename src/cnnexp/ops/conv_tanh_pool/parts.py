"""The block from its parts: convolution with bias, then tanh, then pooling, one op each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cnnexp.ops.conv2d import conv2d
from cnnexp.ops.conv_relu_pool.parts import NAMES, pooled
from cnnexp.ops.registry import Algorithm, register, resolve_algorithm
from cnnexp.ops.tanh import tanh

__all__ = ["compose"]


def compose(algorithm: str) -> Callable[..., Tensor]:
    """The block whose parts are computed with ``algorithm``."""

    def conv_tanh_pool(
        input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
    ) -> Tensor:
        *convolution, pool = arguments
        image = conv2d(input, weight, bias, *convolution, algorithm=algorithm)
        image = tanh(image, algorithm=resolve_algorithm("tanh", algorithm))
        return image if pool is None else pooled(image, pool, algorithm)

    return conv_tanh_pool


for _name in NAMES:
    register(
        Algorithm(
            op="conv_tanh_pool",
            name=_name,
            function=compose(_name),
            summary=f"convolution, tanh and pooling one after the other, each by '{_name}'",
            dtypes=(),
        )
    )
