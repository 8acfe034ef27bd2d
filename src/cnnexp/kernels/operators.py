"""What the operators of the fused block have in common: how arguments travel, vmap, new images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry

__all__ = ["new_image", "operator", "pack", "unpack"]


def pack(geometry: WindowGeometry) -> list[int]:
    """``geometry`` as the ints that the operators take."""
    g = geometry
    return [*g.input_size, *g.kernel_size, *g.stride, *g.padding, *g.dilation, int(g.ceil_mode)]


def operator(function: Callable[..., Any]) -> Any:
    """``function`` as the operator ``cnnexp::<name>``, mapped over by one call for each element."""
    name = f"cnnexp::{function.__name__}"
    made = torch.library.custom_op(name, function, mutates_args=())
    made.register_vmap(lambda info, dims, *arguments: _one_by_one(made, dims, arguments))
    return made


def _one_by_one(function: Any, dims: Sequence[int | None], arguments: Sequence[Any]) -> Any:
    mapped = [(a, d) for a, d in zip(arguments, dims, strict=True) if isinstance(d, int)]
    results = []
    for i in range(mapped[0][0].size(mapped[0][1])):
        at = [
            a.select(d, i) if isinstance(d, int) else a
            for a, d in zip(arguments, dims, strict=True)
        ]
        results.append(function(*at))
    if isinstance(results[0], tuple):
        return tuple(torch.stack(each) for each in zip(*results, strict=True)), (0, 0)
    return torch.stack(results), 0


def unpack(kind: type[Any], numbers: Sequence[int]) -> Any:
    """The geometry of ``kind`` that ``pack`` made ``numbers`` of."""
    pairs = [(numbers[i], numbers[i + 1]) for i in range(0, 10, 2)]
    return kind(*pairs, ceil_mode=bool(numbers[10]))


def new_image(like: Tensor, channels: int, size: tuple[int, int], dtype: Any = None) -> Tensor:
    """An empty (N, channels, *size) in channels_last memory."""
    made = like.new_empty(like.size(0), *size, channels, dtype=dtype or like.dtype)
    return made.permute(0, 3, 1, 2)
