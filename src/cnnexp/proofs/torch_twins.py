"""The torch function that each op must agree with, its twin."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.ops.batch_norm_act import activated_by_torch
from cnnexp.ops.registry import NATIVE


def _conv_relu_pool(
    input: Tensor, weight: Tensor, bias: Tensor, *, pool: ops.Pool | None = None, **conv: Any
) -> Tensor:
    return _pooled(F.relu(F.conv2d(input, weight, bias, **conv)), pool or ops.Pool())


def _conv_tanh_pool(
    input: Tensor, weight: Tensor, bias: Tensor, *, pool: ops.Pool | None = None, **conv: Any
) -> Tensor:
    image = F.conv2d(input, weight, bias, **conv).tanh()
    return image if pool is None else _pooled(image, pool)


def _linear_act(
    input: Tensor, *parameters: Tensor, activations: Sequence[str] = ("relu",)
) -> Tensor:
    for weight, bias, name in zip(parameters[::2], parameters[1::2], activations, strict=True):
        input = F.linear(input, weight, bias)
        input = input if name == "none" else getattr(torch, name)(input)
    return input


def _pooled(image: Tensor, p: Any) -> Tensor:
    if p.kind == "max":
        return F.max_pool2d(image, p.kernel_size, p.stride, p.padding, p.dilation, p.ceil_mode)
    counts = p.count_include_pad, p.divisor_override
    # not F.avg_pool2d, whose gradient is not right on every GPU
    return ops.avg_pool2d(
        image, p.kernel_size, p.stride, p.padding, p.ceil_mode, *counts, algorithm=NATIVE
    )


def _batch_norm_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function``, a batch normalisation, with the parameters before the running statistics."""

    def batch_norm(
        input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **rest: Any
    ) -> Tensor:
        return function(input, weight=weight, bias=bias, **rest)

    return batch_norm


def _batch_norm_act(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    activation: str = "relu",
    pool: ops.Pool | None = None,
    **rest: Any,
) -> Tensor:
    active = activated_by_torch(F.batch_norm(input, running_mean, running_var, **rest), activation)
    return active if pool is None else _pooled(active, pool)


_OF_NORM = ("batch_norm", "batch_norm_act")
TWINS: dict[str, Callable[..., Any]] = {
    **{op: ops.get_algorithm(op, NATIVE).function for op in ops.op_names()},
    "batch_norm": _batch_norm_of(F.batch_norm),
    "batch_norm_act": _batch_norm_of(_batch_norm_act),
    "conv_relu_pool": _conv_relu_pool,
    "conv_tanh_pool": _conv_tanh_pool,
    "linear_act": _linear_act,
}


def called(op: str, algorithm: str | None) -> Callable[..., Any]:
    """``op`` with ``algorithm``, or its twin if None, in a form that takes a case's arguments.

    Tensors among the arguments are copied, since running statistics are written to; random numbers
    are the same in every call.
    """
    if algorithm is None:
        # an op declared later, by a user, is not in the table
        function = TWINS.get(op) or ops.get_algorithm(op, NATIVE).function
    else:
        function = functools.partial(ops.get_op(op), algorithm=algorithm)
        function = _batch_norm_of(function) if op in _OF_NORM else function

    def call(*tensors: Tensor, **arguments: Any) -> Any:
        own = {k: v.clone() if isinstance(v, Tensor) else v for k, v in arguments.items()}
        if op != "dropout":
            output = function(*tensors, **own)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                output = function(*tensors, **own)
        changed = [own[k] for k in ("running_mean", "running_var") if own.get(k) is not None]
        return (output, *changed) if changed else output

    return call
