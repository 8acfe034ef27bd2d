"""The CPU kernels of batch normalisation and activation as torch operators: who is let in, what each is handed.

Images (N, C, …) are taken as they lie: in channels_last memory, or plain. numba compiles at the first call
(some seconds a kernel and dtype, once a machine) and is imported only then.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnexp.kernels.operators import operator

__all__ = ["ACTIVATIONS", "backward", "forward", "statistics", "sums", "takes"]

_WIDTH = 256  # of a row of numbers at least
_NUMBERS = 1 << 16  # in a part of the rows, about
_VECTOR = 32  # a row is a multiple of these
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


def _of_channels(input: Tensor) -> Tensor:
    return input.new_empty(input.size(1), dtype=precision(input))


def _pair(input: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _of_channels(input), _of_channels(input)


def _like(input: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(_in_order(input))


@operator("batch_norm_statistics", _pair)
def statistics(input: Tensor) -> tuple[Tensor, Tensor]:
    """μ and σ² of each channel of (N, C, …): (C,), (C,)."""
    input = _in_order(input)
    mean, variance = _pair(input)
    kernels, cut = _kernels_for(input)
    kernels.statistics(_array(input), *cut, mean.numpy(), variance.numpy())
    return mean, variance


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
    input = _in_order(input)
    output = torch.empty_like(input)
    kernels, cut = _kernels_for(input)
    known = _known(input, weight, bias, mean, variance, eps)
    kernels.forward(_array(input), *known, *cut, *_kind(activation, input), _array(output))
    return output


def _two(grad_output: Tensor, input: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _pair(input)


@operator("batch_norm_sums", _two)
def sums(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
) -> tuple[Tensor, Tensor]:
    """∂L/∂β and ∂L/∂γ, (C,), in the precision of the statistics."""
    input = _in_order(input)
    total, moment = _pair(input)
    kernels, cut = _kernels_for(input)
    known = _known(input, weight, bias, mean, variance, eps)
    arrays = _array(_as(input, grad_output)), _array(input)
    kind = _kind(activation, input)
    kernels.sums(*arrays, *known, *cut, *kind, total.numpy(), moment.numpy())
    return total, moment


def _second(grad_output: Tensor, input: Tensor, *_: Any) -> Tensor:
    return _like(input)


@operator("batch_norm_backward", _second)
def backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
    total: Tensor | None,
    moment: Tensor | None,
) -> Tensor:
    """∂L/∂x (N, C, …) from the two results of ``sums``; None where the statistics are constants."""
    input = _in_order(input)
    output = torch.empty_like(input)
    kernels, cut = _kernels_for(input)
    known = _known(input, weight, bias, mean, variance, eps)
    nothing = np.zeros(input.size(1), known[0].dtype)
    summed = [nothing if each is None else each.detach().numpy() for each in (total, moment)]
    arrays = _array(_as(input, grad_output)), _array(input)
    kernels.backward(*arrays, *known, *cut, *_kind(activation, input), *summed, _array(output))
    return output


def _channels_last(image: Tensor) -> bool:
    if image.dim() == 2:
        return True
    return image.dim() == 4 and image.stride(1) == 1 and image.stride(3) >= image.size(1)


def _in_order(image: Tensor) -> Tensor:
    """``image`` without gaps in memory, channels last or plain, as it lies already."""
    image = image.detach()
    if image.dim() != 4:
        return image.contiguous()
    layout = torch.channels_last if _channels_last(image) else torch.contiguous_format
    return image.contiguous(memory_format=layout)


def _as(input: Tensor, image: Tensor) -> Tensor:
    """``image`` in the layout and dtype of ``input``."""
    image = image.detach()
    if image.dtype == input.dtype and image.stride() == input.stride():
        return image
    return torch.empty_like(input).copy_(image)


def _array(image: Tensor) -> np.ndarray:
    """The numbers as the kernels take them: flat in channels_last memory, else (N, C, pixels)."""
    if image.dtype == torch.bfloat16:
        image = image.view(torch.uint16)
    if _channels_last(image):
        image = image.permute(0, 2, 3, 1) if image.dim() == 4 else image
        return image.numpy().reshape(-1)
    return image.numpy().reshape(image.size(0), image.size(1), -1)


def _kernels_for(image: Tensor) -> tuple[ModuleType, tuple[int, ...]]:
    """The kernels for such memory, and the cut that they need."""
    from cnnexp.kernels.cpu import batch_norm_kernels, batch_norm_planes

    if _channels_last(image):
        return batch_norm_kernels, _cut(image.size(1))
    return batch_norm_planes, ()


@functools.lru_cache(maxsize=256)
def _cut(channels: int) -> tuple[int, int]:
    """The width of a row and how many rows a part has."""
    least = math.lcm(channels, _VECTOR)
    width = -(-_WIDTH // least) * least
    return width, max(4, _NUMBERS // width)


def _known(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Any, ...]:
    """μ, σ², γ, β and ε, as arrays of one dtype."""
    dtype = precision(input)
    found = [mean, variance, weight, bias]
    arrays = [
        np.full(input.size(1), default, str(dtype).removeprefix("torch."))
        if each is None
        else each.detach().to(dtype).contiguous().numpy()
        for each, default in zip(found, (0.0, 1.0, 1.0, 0.0), strict=True)
    ]
    return *arrays, arrays[0].dtype.type(eps)


def _kind(activation: str, input: Tensor) -> tuple[Any, ...]:
    kind, low, high = ACTIVATIONS[activation]
    number = np.float64 if input.dtype == torch.float64 else np.float32
    return kind, number(low), number(high)
