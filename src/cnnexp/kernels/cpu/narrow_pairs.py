"""What the kernels of few channels in bfloat16 are handed, which multiply pairs (``narrow_pair_kernels``)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.kernels.cpu.bfloat16 import AVAILABLE
from cnnexp.kernels.cpu.image_layout import in_order, is_channels_last
from cnnexp.kernels.cpu.narrow_tables import (
    PARTS,
    Behind,
    arguments_of,
    pair_table,
    plane_table,
)

__all__ = ["has_pairs", "run_forward", "run_grad_input", "run_grad_weight"]


def has_pairs(image: Tensor) -> bool:
    """Whether convolutions of such an image multiply pairs."""
    return AVAILABLE and image.dtype == torch.bfloat16


def run_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: Conv2dGeometry,
    output: Tensor,
    kept: Tensor | None = None,
    behind: Behind | None = None,
) -> None:
    """Leave y in ``output``, and in ``kept`` what the backward of what is behind needs."""
    source, weight = in_order(input), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    addresses = _addresses(source, weight, bias, kept, output)
    arguments = _arguments(source, weight, conv, output, behind, backward=False)
    _kernels().forward(addresses, *arguments)


def run_grad_input(
    grad_output: Tensor,
    weight: Tensor,
    conv: Conv2dGeometry,
    grad: Tensor,
    kept: Tensor | None = None,
    behind: Behind | None = None,
) -> None:
    """Leave ∂L/∂x in ``grad``, through what is behind."""
    outer, weight = in_order(grad_output), weight.contiguous()
    addresses = _addresses(outer, kept, weight, grad)
    arguments = _arguments(outer, weight, conv, grad, behind, backward=True)
    _kernels().grad_input(addresses, *arguments)


def run_grad_weight(
    grad_output: Tensor,
    input: Tensor,
    conv: Conv2dGeometry,
    grad: Tensor,
    of_bias: Tensor,
    kept: Tensor | None = None,
    behind: Behind | None = None,
) -> None:
    """Leave ∂L/∂w in ``grad`` and ∂L/∂b in ``of_bias``, through what is behind; of at least one image."""
    source, outer = in_order(input), in_order(grad_output)
    pitch, reads = plane_table(conv, input.size(1), conv.padding, _spare())
    _kernels().grad_weight(
        _addresses(source, outer, kept, grad, of_bias),
        source.size(0),
        (input.size(1), grad_output.size(1)),
        (is_channels_last(source), is_channels_last(outer)),
        (conv.input_size, conv.output_size, conv.padding, pitch),
        conv.kernel_size[0] * conv.kernel_size[1],
        reads,
        min(PARTS, source.size(0)),
        arguments_of(behind, pitch[1], 0, np.float32),
    )


@functools.cache
def _kernels() -> Any:
    from cnnexp.kernels.cpu import narrow_pair_kernels

    return narrow_pair_kernels


@functools.cache
def _spare() -> int:
    from cnnexp.kernels.cpu.narrow_tiles import SPARE

    return SPARE


def _addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    return tuple([0 if each is None else each.data_ptr() for each in tensors])


def _arguments(
    image: Tensor,
    weight: Tensor,
    conv: Conv2dGeometry,
    output: Tensor,
    behind: Behind | None,
    backward: bool,
) -> tuple[Any, ...]:
    """Of a kernel that computes ``output`` from ``image``: x, or, in the backward, ∂L/∂y."""
    c_out, c_in = weight.shape[:2]
    pitch, reads, places = pair_table(conv, c_in, c_out, backward)
    sizes, padding, first = (conv.input_size, conv.output_size), conv.padding, 0
    if backward:
        sizes, padding = sizes[::-1], conv.backward_padding
        first = padding[0] * pitch[1] + padding[1]
    return (
        image.size(0),
        (image.size(1), output.size(1)),
        (is_channels_last(image), is_channels_last(output)),
        (*sizes, padding, pitch),
        (weight.numel(), conv.kernel_size[1], conv.dilation[1]),
        reads,
        places,
        (1 if backward else c_in) * weight.size(2) * weight.size(3),
        arguments_of(behind, pitch[1], first, np.float32),
    )
