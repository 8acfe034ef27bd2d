"""Algorithms of the convolution that have CPU kernels for some calls and compute the others as ``direct``."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry, conv2d_geometry
from cnnexp.ops.autocast import cast_dtype, described_for_autocast
from cnnexp.ops.conv2d import direct
from cnnexp.ops.conv2d.function import WideWeights, is_wide, register_conv2d
from cnnexp.ops.forward_mode import in_forward_mode
from cnnexp.ops.kernel_calls import way_to

__all__ = ["register_kernels"]


class Kernels(Protocol):
    """A module of ``kernels.cpu`` whose operators compute a convolution."""

    takes: Any
    forward: Any
    grad_input: Any
    grad_weight: Any


def register_kernels(
    name: str, cpu: Kernels, *, summary: str, each_sample: bool = False, wide: bool = False
) -> None:
    """Enter the algorithm ``name`` of ``conv2d``: the kernels of ``cpu`` for what they take, else ``direct``.

    Forward mode, the gradient of a gradient, and tensors of other dtypes than these take the formulas, too.

    Args:
        name: The algorithm's.
        cpu: Its operators, and ``takes`` (image, geometry, C_in, C_out), which says what they compute.
        summary: What it is, in a line.
        each_sample: Whether ``grad_weight`` takes ``per_sample`` as its last argument; else the gradients of
            single samples are those of ``direct``.
        wide: Whether they take weights in float32 beside images in bfloat16, and ``grad_weight`` as its last
            argument whether it leaves ∂L/∂w in float32.
    """

    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Conv2dGeometry
    ) -> Tensor:
        if in_forward_mode() or not cpu.takes(input, geometry, input.size(1), weight.size(0)):
            return direct.forward(input, weight.to(input.dtype), bias, geometry)
        tensors = (input, weight) if bias is None else (input, weight, bias)
        return way_to(cpu.forward, *tensors)(input, weight, bias, geometry)

    def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
        taken = cpu.takes(grad_output, geometry, weight.size(1) * geometry.groups, weight.size(0))
        fits = weight.dtype == grad_output.dtype or (wide and is_wide(weight, grad_output.dtype))
        if _densely() or not taken or not fits:
            return direct.grad_input(grad_output, weight.to(grad_output.dtype), geometry)
        return way_to(cpu.grad_input, grad_output, weight)(grad_output, weight, geometry)

    def grad_weight(
        grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, per_sample: bool = False
    ) -> Tensor:
        taken = cpu.takes(input, geometry, input.size(1), grad_output.size(1))
        apart = per_sample and not each_sample
        if apart or _densely() or not taken or grad_output.dtype != input.dtype:
            return direct.grad_weight(grad_output, input, geometry, per_sample)
        last = (per_sample,) if each_sample else (False,) * wide
        return way_to(cpu.grad_weight, grad_output, input)(grad_output, input, geometry, *last)

    def wide_grad_weight(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry) -> Tensor:
        if _densely():
            return direct.grad_weight(grad_output, input, geometry).float()
        return way_to(cpu.grad_weight, grad_output, input)(grad_output, input, geometry, True)

    def serves(input: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> bool:
        given = input, weight, bias
        input, kernel, bias = described_for_autocast(*given, cast_dtype(input))
        geometry = conv2d_geometry(input, kernel, bias, *window)
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        return cpu.takes(batch, geometry, batch.size(1), weight.size(0))

    with_wide = WideWeights(cpu.takes, wide_grad_weight) if wide else None
    register_conv2d(
        *(name, forward, grad_input, grad_weight), summary=summary, serves=serves, wide=with_wide
    )


def _densely() -> bool:
    """Whether the gradients are to be differentiated again, by which only the formulas can be."""
    return torch.is_grad_enabled() or in_forward_mode()
