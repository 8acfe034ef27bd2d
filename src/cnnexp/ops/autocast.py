"""Follow ``torch.autocast`` where torch's own op would."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from cnnexp.geometry.described import Described
from cnnexp.ops.recomputed import recomputable
from cnnexp.ops.torch_internals import constant_when_compiled


def cast_for_autocast(
    input: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast the arguments to the autocast dtype where autocast is on for their device.

    The casts stand outside our autograd Functions, so that autograd's own backward of a cast brings
    each gradient back to its parameter's dtype and the backward formulas see one dtype only, but for
    convolutions that take weights as they are (see :func:`described_for_autocast`).
    (``torch.amp.custom_fwd`` does not combine with ``setup_context``: pytorch #132388.)
    """
    dtype = cast_dtype(input)
    if dtype is None:
        return input, weight, bias
    return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def cast_again_for_autocast(
    input: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As :func:`cast_for_autocast`, but a backward casts the weight again instead of keeping the cast.

    Of a weight that is computed anew each time it would keep more than a cast of it.
    """
    cast = cast_for_autocast(input, weight, bias)
    if cast[1] is not weight and weight.is_leaf:
        recomputable(cast[1], _cast, (weight,), cast[1].dtype)
    return cast


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype)


def described_for_autocast(
    input: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor | Described, Tensor | None]:
    """As :func:`cast_for_autocast`, but of the weight only what a cast would be, which is not made.

    ``dtype`` is that of :func:`cast_dtype`.
    """
    if dtype is None:
        return input, weight, bias
    cast = Described(weight.shape, dtype, weight.device)
    return input.to(dtype), cast, None if bias is None else bias.to(dtype)


def cast_dtype(input: Tensor) -> torch.dtype | None:
    """What autocast casts the arguments of an op of ``input`` to; None where it leaves them alone."""
    return None if input.dtype == torch.float64 else autocast_dtype(input)


def autocast_dtype(input: Tensor) -> torch.dtype | None:
    """What autocast computes in on the device of ``input``; None where it is off."""
    device = input.device.type
    if not (device == "cpu" or _has_autocast(device)) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def outside_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Within it autocast rounds nothing on the device of ``tensor``, so that factors stay as they are."""
    if autocast_dtype(tensor) is None:
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


@constant_when_compiled  # the compiler of torch 2.11 does not know the question
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)
