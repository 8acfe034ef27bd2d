"""What losses share: how single losses become one number, and in which dtype they are computed."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from cnnexp.ops.autocast import autocast_dtype
from cnnexp.ops.precision import widened


def named_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """``none``, ``mean`` or ``sum``, also where it is asked for by torch's two old names.

    Raises:
        ValueError: It is something else.
    """
    if size_average is not None or reduce is not None:
        return "none" if reduce is False else "sum" if size_average is False else "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction: none, mean, sum")
    return reduction


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """``losses``, of any shape, as they are, or their mean or sum as a scalar."""
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def as_one_shape(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Both in one shape and in the dtype that a loss of them is computed in, and the dtype of its result.

    Raises:
        RuntimeError: The shapes cannot be broadcast.
    """
    dtype = torch.promote_types(input.dtype, target.dtype)
    if autocast_dtype(input) is not None:  # autocast computes losses in float32
        dtype = widened(input.to(dtype)).dtype
    if input.shape != target.shape:
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            f"This will likely lead to incorrect results due to broadcasting.",
            stacklevel=3,
        )
        input, target = torch.broadcast_tensors(input, target)
    return widened(input.to(dtype)), widened(target.to(dtype)), dtype


def weighted(losses: Tensor, weight: Tensor | None) -> Tensor:
    """``losses``, each times its weight, which is broadcast to their shape."""
    return losses if weight is None else losses * weight
