"""Activations and poolings, however they are called: as functions of torch or as methods of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.geometry.pooling import Pool


@dataclass(frozen=True)
class Step:
    """A call that a block may include: an activation, or a pooling.

    Attributes:
        activation: ``"relu"``, ``"relu6"``, ``"hardswish"``, ``"silu"`` or ``"tanh"``; None of a pooling.
        pool: The pooling; None of an activation.
    """

    activation: str | None = None
    pool: Pool | None = None

    def by_torch(self, input: Tensor) -> Tensor:
        """Return what the call gives, as torch computes it."""
        if self.pool is None:
            return _BY_TORCH[str(self.activation)](input)
        return pooled(input, self.pool)


RELU, TANH = Step("relu"), Step("tanh")

# Those after which a block may have another step; behind a normalisation the activation is the last.
_BY_TORCH: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}
_ACTIVATIONS: dict[Any, str] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), "relu"),
    **dict.fromkeys((torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_), "tanh"),
    F.relu6: "relu6",
    F.hardswish: "hardswish",
    F.silu: "silu",
}
_WINDOW = ("kernel_size", "stride", "padding")
_POOLS: dict[Any, tuple[str, tuple[str, ...]]] = {
    F.max_pool2d: ("max", (*_WINDOW, "dilation", "ceil_mode", "return_indices")),
    torch.max_pool2d: ("max", (*_WINDOW, "dilation", "ceil_mode")),
    F.avg_pool2d: ("avg", (*_WINDOW, "ceil_mode", "count_include_pad", "divisor_override")),
}


def step_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Step | None:
    """The step that calling ``func`` is, a function or a method of ``Tensor``; None where it is none.

    Args:
        func: The function.
        args: What it is called with; the first is the tensor.
        kwargs: By name.
    """
    if not args:
        return None
    if (activation := _ACTIVATIONS.get(func)) is not None:
        plain = len(args) == 1 and not kwargs.keys() - {"inplace"}
        return Step(activation) if plain else None
    if (found := _POOLS.get(func)) is None:
        return None
    kind, names = found
    given = {**dict(zip(names, args[1:], strict=False)), **kwargs}
    if (
        len(args) > 1 + len(names)
        or given.keys() - set(names)
        or given.pop("return_indices", False)
    ):
        return None
    return Step(pool=Pool(kind, **given)) if all(map(_is_constant, given.values())) else None


def writes_into_its_argument(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of ``func``, a step, is to leave its result in its argument."""
    return bool(kwargs.get("inplace")) or func.__name__.endswith("_")


def pooled(image: Tensor, pool: Pool) -> Tensor:
    """Return what ``pool`` makes of ``image``, as torch's own layer computes it."""
    window: tuple[Any, Any, Any] = pool.kernel_size, pool.stride, pool.padding
    if pool.kind == "avg":
        counts = pool.count_include_pad, pool.divisor_override
        return F.avg_pool2d(image, *window, pool.ceil_mode, *counts)
    dilation: Any = pool.dilation
    return F.max_pool2d(image, *window, dilation, pool.ceil_mode)


def _is_constant(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, int)
