"""What a target of the cross-entropy may be: the checks, as torch makes them, in plain words."""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.ops.autocast import autocast_dtype


def check_target(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> None:
    """Raise unless shapes fit together, and probabilities are floating-point numbers.

    Raises:
        ValueError: The batch sizes differ (as torch).
        RuntimeError: Anything else (as torch).
    """
    if input.dim() < 1:
        raise RuntimeError("cross_entropy needs logits (C,) or (N, C, …), but got a scalar")
    axis = 0 if input.dim() == 1 else 1
    classes = input.size(axis)
    expected = [*input.shape[:axis], *input.shape[axis + 1 :]]
    if list(target.shape) == list(input.shape):
        if not target.is_floating_point():
            raise RuntimeError(
                f"cross_entropy got a target of {target.dtype} in the shape of the logits, "
                f"{list(input.shape)}, as of a one-hot encoding; pass the classes, "
                f"target.argmax({axis}), or probabilities, target.to({input.dtype})"
            )
        if ignore_index >= 0:
            raise RuntimeError(
                f"ignore_index={ignore_index} is not supported for a target of probabilities; "
                f"leave it out, or pass classes"
            )
    elif list(target.shape) != expected:
        sizes_differ = input.dim() > 1 and (not target.dim() or target.size(0) != input.size(0))
        raise (ValueError if sizes_differ else RuntimeError)(
            f"cross_entropy needs a target of shape {expected} (classes) or {list(input.shape)} "
            f"(probabilities), but got {list(target.shape)}"
        )
    if weight is not None and weight.shape != (classes,):
        raise RuntimeError(
            f"weight should have one element for each of {classes} classes, but has shape "
            f"{list(weight.shape)}"
        )
    if weight is not None and weight.requires_grad:
        raise RuntimeError("cross_entropy has no derivative with respect to weight; detach it")


def check_dtypes(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> None:
    """Raise ``RuntimeError`` unless torch computes with these dtypes, too."""
    if target.shape == input.shape:
        return  # of probabilities: every floating-point dtype
    small = target.dtype == torch.uint8
    if target.dtype != torch.int64 and not small:
        raise RuntimeError(
            f"cross_entropy takes classes as torch.int64 (or torch.uint8), but got {target.dtype}; "
            f"convert them with target.long()"
        )
    if small and input.dim() > 2:
        raise RuntimeError(
            f"cross_entropy takes classes as torch.uint8 only for logits (C,) or (N, C), but the "
            f"logits are {list(input.shape)}; convert them with target.long()"
        )
    if small and target.numel() and smoothing and weight is not None and reduction == "mean":
        raise RuntimeError(
            "cross_entropy takes classes as torch.uint8 not together with weight, label_smoothing "
            "and reduction='mean'; convert them with target.long()"
        )
    if weight is not None and weight.dtype != input.dtype and autocast_dtype(input) is None:
        raise RuntimeError(
            f"cross_entropy needs logits and weight of one dtype where the target is classes, but "
            f"got {input.dtype} and {weight.dtype}"
        )
