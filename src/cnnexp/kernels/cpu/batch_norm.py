"""The CPU kernels of batch normalisation and activation as torch operators, and what each is handed.

Images (N, C, …) are taken as they lie: in channels_last memory, or plain. numba compiles at the first call
(some seconds a kernel and dtype, once a machine) and is imported only then.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import Buffer, Parameter

from cnnexp.kernels.cpu.elements import ONES
from cnnexp.kernels.operators import operator

__all__ = [
    "ACTIVATIONS",
    "activation_numbers",
    "address_of",
    "forward",
    "gradients",
    "in_dtype",
    "move",
    "pair_like",
    "precision",
    "statistics",
    "takes",
]

_FREE = math.nan  # no bound

# the kind that the kernels know it by and its bounds
ACTIVATIONS: dict[str, tuple[int, float, float]] = {
    "none": (0, _FREE, _FREE),
    "relu": (0, 0.0, _FREE),
    "relu6": (0, 0.0, 6.0),
    "hardswish": (1, _FREE, _FREE),
    "silu": (2, _FREE, _FREE),
}


def takes(input: Tensor, *parameters: Tensor | None) -> bool:
    """Whether these kernels take (N, C, …) and such parameters (C,)."""
    if input.device.type != "cpu" or not input.numel():
        return False
    if input.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return False
    kinds = (input.dtype, precision(input))
    return all(p is None or (p.dtype in kinds and p.device.type == "cpu") for p in parameters)


def precision(input: Tensor) -> torch.dtype:
    """The dtype of statistics and sums of ``input``."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


@functools.cache
def _kernels() -> Any:
    from cnnexp.kernels.cpu import batch_norm_kernels

    return batch_norm_kernels


def pair_like(input: Tensor) -> tuple[Tensor, Tensor]:
    """Empty statistics (C,) of ``input``, or sums."""
    dtype = precision(input)
    return input.new_empty(input.size(1), dtype=dtype), input.new_empty(input.size(1), dtype=dtype)


@operator("batch_norm_statistics", pair_like)
def statistics(input: Tensor) -> tuple[Tensor, Tensor]:
    """μ and σ² of each channel of (N, C, …): (C,), (C,)."""
    kernels = _kernels()
    input = _in_order(input)
    mean, variance = pair_like(input)
    of_kind = ONES[mean.dtype]
    kernels.statistics(*_image(input), mean.data_ptr(), variance.data_ptr(), of_kind)
    return mean, variance


def move(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: int,
    momentum: float,
) -> bool:
    """Whether the kernel moved the running statistics, which autograd does not see.

    ``count`` numbers a channel have these ``mean`` and ``variance``.
    """
    kernels = _kernels()
    four = mean, variance, running_mean, running_var
    for tensor in four:
        if type(tensor) not in (Tensor, Buffer, Parameter) or tensor.dtype != mean.dtype:
            return False
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return False
    numbers = ONES[mean.dtype], count, momentum, mean.numel()
    kernels.move(mean.data_ptr(), variance.data_ptr(), *numbers, *[t.data_ptr() for t in four[2:]])
    return True


def _like(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
) -> Tensor:
    return torch.empty_like(_in_order(input))


@operator("batch_norm_forward", _like)
def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
) -> Tensor:
    """act(γ·(x − μ)/√(σ² + ε) + β) of (N, C, …), where it lies as ``input`` does."""
    kernels = _kernels()
    input = _in_order(input)
    output = torch.empty_like(input)
    known = in_dtype(mean.dtype, mean, variance, weight, bias)
    kernels.forward(
        *_image(input),
        *map(address_of, known),
        *activation_numbers(mean.dtype, eps, activation),
        output.data_ptr(),
    )
    return output


def _gradients_like(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
    fixed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(_in_order(input)), *pair_like(input)


@operator("batch_norm_gradients", _gradients_like)
def gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
    fixed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """∂L/∂x (N, C, …), ∂L/∂γ and ∂L/∂β (C,), the latter two in the precision of the statistics.

    ``fixed`` says that the statistics do not depend on x.
    """
    kernels = _kernels()
    input = _in_order(input)
    grad_output = _as(input, grad_output)
    output = torch.empty_like(input)
    of_weight, of_bias = pair_like(input)
    known = in_dtype(mean.dtype, mean, variance, weight, bias)
    kernels.gradients(
        *_image(input),
        *map(address_of, known),
        *activation_numbers(mean.dtype, eps, activation),
        grad_output.data_ptr(),
        output.data_ptr(),
        of_weight.data_ptr(),
        of_bias.data_ptr(),
        fixed,
    )
    return output, of_weight, of_bias


def _channels_last(image: Tensor) -> bool:
    if image.dim() == 2:
        return True
    return image.dim() == 4 and image.stride(1) == 1 and image.stride(3) >= image.size(1)


def _in_order(image: Tensor) -> Tensor:
    """``image`` without gaps in memory, channels last or plain, as it lies already."""
    if image.dim() != 4:
        return image.contiguous()
    layout = torch.channels_last if _channels_last(image) else torch.contiguous_format
    return image.contiguous(memory_format=layout)


def _as(input: Tensor, image: Tensor) -> Tensor:
    """``image`` in the layout and dtype of ``input``."""
    if image.dtype == input.dtype and image.stride() == input.stride():
        return image
    return torch.empty_like(input).copy_(image)


def _image(image: Tensor) -> tuple[Any, ...]:
    """Address, N, C, pixels, layout and kind of number."""
    n, channels, *sizes = image.shape
    one = ONES[image.dtype]
    return image.data_ptr(), n, channels, math.prod(sizes), _channels_last(image), one


def in_dtype(dtype: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    """``tensors`` (C,) without gaps in memory, in ``dtype``."""
    return [
        t if t is None or (t.dtype == dtype and t.is_contiguous()) else t.to(dtype).contiguous()
        for t in tensors
    ]


def address_of(tensor: Tensor | None) -> int:
    """Where ``tensor`` is; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


@functools.lru_cache(maxsize=256)
def activation_numbers(dtype: torch.dtype, eps: float, activation: str) -> tuple[Any, ...]:
    """ε, the kind of activation and its bounds."""
    kind, low, high = ACTIVATIONS[activation]
    number = type(ONES[dtype])
    return number(eps), kind, number(low), number(high)
