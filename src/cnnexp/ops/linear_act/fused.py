"""The way ``fused`` of linear layers with activations: the Functions of ``functions`` where kernels serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from cnnexp.kernels.cpu import linear_act as kernels
from cnnexp.ops.autocast import cast_dtype
from cnnexp.ops.linear_act.functions import of_one, of_several
from cnnexp.ops.linear_act.parts import compose, layers_of
from cnnexp.ops.registry import Algorithm, register
from cnnexp.ops.torch_internals import is_batched_by_autograd, transformed

__all__ = ["by_kernels", "linear_act"]

Tensors = Sequence[Tensor | None]  # w, b, w_2, b_2, w_3, b_3


def linear_act(input: Tensor, *arguments: Any) -> Tensor:
    """The fused block where there are kernels for it, else its parts one by one."""
    *tensors, activations = arguments
    layers_of(tensors, activations)
    output = by_kernels(input, tensors, tuple(activations))
    if output is None:
        return compose("fused")(input, *arguments)  # whose products have one order of sums, too
    return output


def by_kernels(input: Tensor, tensors: Tensors, activations: tuple[str, ...]) -> Tensor | None:
    """The block of the layers ``tensors``, one an activation; None where there are no kernels for it."""
    if not _is_plain(input, *tensors):
        return None
    dtype = cast_dtype(input)
    rows = input if dtype is None else input.to(dtype)
    layers = _layers(rows, tensors, activations, dtype)
    if layers is None:
        return None
    flat = rows if rows.dim() == 2 else rows.reshape(-1, rows.size(-1))
    flat = flat.contiguous()
    if len(activations) == 1:
        output = of_one(flat, *tensors[:2], layers)  # pyright: ignore[reportArgumentType, reportCallIssue]
    else:
        output = of_several(flat, tensors, layers)
    return output if rows.dim() == 2 else output.view(*rows.shape[:-1], output.size(-1))


def _is_plain(*tensors: Tensor | None) -> bool:
    """Whether the kernels may read ``tensors``: nobody maps, differentiates, compiles or wraps them."""
    if torch.compiler.is_compiling() or transformed():
        return False
    given = [each for each in tensors if each is not None]
    return all(type(each) in (Tensor, Parameter) for each in given) and not any(
        map(is_batched_by_autograd, given)
    )


def _layers(
    input: Tensor, tensors: Tensors, activations: tuple[str, ...], dtype: torch.dtype | None
) -> kernels.Layers | None:
    """The layers, if the kernels take them and shapes and dtypes fit together as torch wants them."""
    count = len(activations)
    weights: Any = tensors[: 2 * count : 2]
    biases = tensors[1 : 2 * count : 2]
    widths = [input.size(-1) if input.dim() else 0]
    for weight, bias in zip(weights, biases, strict=True):
        if weight.dim() != 2 or weight.size(1) != widths[-1]:
            return None
        widths.append(weight.size(0))
        if bias is not None and (bias.dim() != 1 or bias.size(0) != widths[-1]):
            return None
        if dtype is None and weight.dtype != input.dtype:
            return None
    if not kernels.takes(input, weights, biases, activations):
        return None
    return kernels.Layers(tuple(widths), activations, weights[0].dtype)


def serves(input: Tensor, *arguments: Any) -> bool:
    """Whether the kernels take such a call of ``linear_act``, whose arguments these are."""
    *tensors, activations = arguments
    layers_of(tensors, activations)
    dtype = cast_dtype(input)
    rows = input if dtype is None else input.to(dtype)
    return _layers(rows, tensors, tuple(activations), dtype) is not None


register(
    Algorithm(
        op="linear_act",
        name="fused",
        function=linear_act,
        summary="rows stay in the cache through all layers, forward and backward, in one kernel each",
        serves=serves,
    )
)
