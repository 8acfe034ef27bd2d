"""Random calls of the ops, drawn from a seed: odd shapes, strides, paddings, groups, layouts, N = 0."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnexp.ops.geometry import WindowGeometry, as_pair

Case = tuple[list[Tensor], dict[str, Any]]


def conv2d_case(draw: random.Random, dtype: torch.dtype = torch.float64) -> Case:
    groups = draw.choice([1, 1, 2, 3])
    c_in, c_out = groups * draw.randint(1, 2), groups * draw.randint(1, 2)
    kernel = (draw.randint(1, 4), draw.randint(1, 4))
    tensors = [
        _image(draw, c_in, dtype),
        torch.randn(c_out, c_in // groups, *kernel, dtype=dtype),
        torch.randn(c_out, dtype=dtype),
    ]
    return tensors, {
        "stride": draw.choice([1, 1, 2, 3, (1, 2)]),
        "padding": draw.choice([0, 1, 2, (2, 1), "same", "valid"]),
        "dilation": draw.choice([1, 1, 2, (2, 1)]),
        "groups": groups,
    }


def max_pool2d_case(draw: random.Random, dtype: torch.dtype = torch.float64) -> Case:
    while True:
        image = torch.randint(-2, 3, _image(draw, draw.randint(1, 3), dtype).shape).to(dtype)
        if draw.random() < 0.2:
            image[torch.rand(image.shape) < 0.3] = torch.nan
        if draw.random() < 0.2:
            image[torch.rand(image.shape) < 0.7] = -torch.inf
        arguments = _window(draw) | {
            "dilation": draw.choice([1, 1, 2, (2, 1)]),
            "return_indices": True,
        }
        if not _blind(image, arguments):
            return [_layout(draw, image)], arguments


def avg_pool2d_case(draw: random.Random, dtype: torch.dtype = torch.float64) -> Case:
    return [_image(draw, draw.randint(1, 3), dtype)], _window(draw) | {
        "count_include_pad": draw.random() < 0.5,
        "divisor_override": draw.choice([None, None, 3, -2]),
    }


CASES: dict[str, Callable[..., Case]] = {
    "conv2d": conv2d_case,
    "max_pool2d": max_pool2d_case,
    "avg_pool2d": avg_pool2d_case,
}


def _window(draw: random.Random) -> dict[str, Any]:
    return {
        "kernel_size": (draw.randint(1, 4), draw.randint(1, 4)),
        "stride": draw.choice([None, 1, 2, 3, (2, 1)]),
        "padding": draw.choice([0, 1, (1, 0), 2]),
        "ceil_mode": draw.random() < 0.5,
    }


def _image(draw: random.Random, channels: int, dtype: torch.dtype) -> Tensor:
    size = (draw.randint(1, 8), draw.randint(1, 8))
    if draw.random() < 0.1:
        return torch.randn(channels, *size, dtype=dtype)
    return _layout(draw, torch.randn(draw.choice([0, 1, 2, 3]), channels, *size, dtype=dtype))


def _layout(draw: random.Random, image: Tensor) -> Tensor:
    kind = draw.choice(["contiguous", "channels_last", "strided"])
    if kind == "channels_last" and image.dim() == 4:
        return image.contiguous(memory_format=torch.channels_last)
    if kind == "strided":
        return image.repeat_interleave(2, dim=-1)[..., ::2]
    return image


def _blind(image: Tensor, arguments: dict[str, Any]) -> bool:
    """A window over padding only: torch's backward then writes outside its memory."""
    kernel = arguments["kernel_size"]
    stride = kernel if arguments["stride"] is None else as_pair(arguments["stride"], "stride")
    try:
        geometry = WindowGeometry(
            (image.size(-2), image.size(-1)),
            kernel,
            stride,
            as_pair(arguments["padding"], "padding"),
            as_pair(arguments["dilation"], "dilation"),
            arguments["ceil_mode"],
        )
    except RuntimeError:
        return False
    return geometry.blind_windows()
