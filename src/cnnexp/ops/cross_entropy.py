"""Softmax cross-entropy, with class weights and label smoothing.

For logits z (N, C), s = softmax(z), and a target distribution q (N, C) that need not sum to 1,

    L[n] = −Σ_c q[n, c] · log s[n, c]        ∂L[n]/∂z[n, k] = s[n, k] · Σ_c q[n, c] − q[n, k]

since ∂ log s[c] / ∂z[k] = [c = k] − s[k]. With class weights w and smoothing ε the target is

    q[n, c] = w[c] · ((1 − ε)·t[n, c] + ε/C)        t: one-hot, or the probabilities given

for one-hot t with w[t_n] instead of w[c] on its first term, which is the same. 'mean' divides by
Σ_n w[t_n] for classes (ignored ones left out), by N for probabilities. Softmax and logarithm
together have this short derivative; a softmax before the loss would flatten it.

Source: docs/derivation.md; Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, "Rethinking the Inception
Architecture for Computer Vision" (2016), section 7, for label smoothing.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.autocast import autocast_dtype
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.classes import check_dtypes, check_target
from cnnexp.ops.forward_mode import transformed
from cnnexp.ops.precision import widened
from cnnexp.ops.registry import declare, get_algorithm
from cnnexp.ops.torch_internals import in_torch_func


def forward(logits: Tensor, target: Tensor) -> Tensor:
    """The losses L from z and q, both (N, C, …) → (N, …)."""
    # where q is 0 the term is 0, even if the logit is −∞
    return -(target * logits.log_softmax(1)).where(target != 0, 0).sum(1)


def grad_input(grad_output: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """∂L/∂z from the gradient of each L: (N, …), z and q: (N, C, …)."""
    total = target.sum(1, keepdim=True)
    return grad_output.unsqueeze(1) * (logits.softmax(1) * total - target)


def grad_target(grad_output: Tensor, logits: Tensor) -> Tensor:
    """∂L/∂q from the gradient of each L: (N, …) and z: (N, C, …)."""
    return -grad_output.unsqueeze(1) * logits.log_softmax(1)


def tangent(
    logits_tangent: Tensor | None, target_tangent: Tensor | None, logits: Tensor, target: Tensor
) -> Tensor:
    """The tangent of each L: (N, …), the sum of its gradients times the tangents of its z and q."""
    ones = torch.ones_like(logits.select(1, 0))
    moved = torch.zeros_like(ones)
    if logits_tangent is not None:
        moved = moved + (grad_input(ones, logits, target) * logits_tangent).sum(1)
    if target_tangent is not None:
        moved = moved + (grad_target(ones, logits) * target_tangent).sum(1)
    return moved


_losses = differentiable(forward, logits=grad_input, target=grad_target, tangent=tangent)


def forward_of_classes(
    logits: Tensor, target: Tensor, counts: Tensor | None, reduction: str
) -> Tensor:
    """The reduced loss, where q is 1 at the class t and 0 elsewhere.

    Args:
        logits: z, (N, C, …).
        target: t, (N, …).
        counts: (N, …) bool, which t count; None for all.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
    """
    losses = logits.log_softmax(1).gather(1, target.unsqueeze(1)).squeeze(1).neg()
    if counts is not None:  # by no product: an infinite loss that does not count is 0
        losses = losses.where(counts, 0)
    if reduction == "none":
        return losses
    return losses.sum() / _total(target, counts) if reduction == "mean" else losses.sum()


def grad_logits(
    grad_output: Tensor, logits: Tensor, target: Tensor, counts: Tensor | None, reduction: str
) -> Tensor:
    """∂L/∂z from that of the reduced loss: softmax(z) − 1 at t, by what the loss is a mean of."""
    if reduction == "mean":  # where nothing counts, the loss is NaN and its gradient 0 (as torch)
        total = _total(target, counts)
        grad_output = grad_output / (max(total, 1) if counts is None else total.clamp_min(1))
    if counts is not None:
        grad_output = grad_output * counts
    likely, classes = logits.softmax(1), target.unsqueeze(1)
    difference = likely.scatter(1, classes, likely.gather(1, classes) - 1)
    return difference * (grad_output.unsqueeze(1) if grad_output.dim() else grad_output)


def _total(target: Tensor, counts: Tensor | None) -> Any:
    return target.numel() if counts is None else counts.sum()


_loss_of_classes = differentiable(forward_of_classes, logits=grad_logits)


def _direct(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    size_average: bool | None,
    ignore_index: int,
    reduce: bool | None,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    reduction = _reduction(size_average, reduce, reduction)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction: none, mean, sum")
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if input.dim() == 1 and target.shape == (1,) != input.shape and not target.is_floating_point():
        target = target.reshape(())
    check_target(input, target, weight, ignore_index)
    check_dtypes(input, target, weight, reduction, label_smoothing)
    dtype = input.dtype
    if autocast_dtype(input) is not None:  # autocast computes losses in float32
        dtype = widened(input).dtype
    if target.shape == input.shape:  # torch multiplies what it is given
        dtypes = [t.dtype for t in (target, weight) if t is not None]
        dtype = functools.reduce(torch.promote_types, dtypes, dtype)
    logits = widened(input.to(torch.promote_types(input.dtype, dtype)))
    if input.dim() == 1:
        logits, target = logits.unsqueeze(0), target.unsqueeze(0)
    weight = None if weight is None else weight.detach().to(logits.dtype)
    if target.dim() == logits.dim():
        mass, total = _smooth(target.to(logits.dtype), weight, label_smoothing), None
    else:
        target = target.long()
        if weight is None and not label_smoothing and not transformed() and logits.size(1):
            loss = _of_classes(logits, target, ignore_index, reduction).to(dtype)
            return loss.squeeze(0) if loss.dim() and input.dim() == 1 else loss
        mass, total = _one_hot(logits, target, weight, ignore_index, label_smoothing)
    losses = _losses(logits, mass)
    if reduction == "none":
        return (losses.squeeze(0) if input.dim() == 1 else losses).to(dtype)
    summed = losses.sum()
    if reduction == "mean":
        if total is None:
            return (summed / (losses.numel() if logits.size(1) else 0)).to(dtype)
        # nothing counts: NaN, but with a gradient of 0 (as torch)
        summed = torch.where(total == 0, torch.nan, summed / torch.where(total == 0, 1, total))
    return summed.to(dtype)


def _reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    if size_average is None and reduce is None:
        return reduction
    # the old names, as torch translates them
    return "none" if reduce is False else "sum" if size_average is False else "mean"


def _of_classes(logits: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """What most trainings ask for, in less time than the general way."""
    all_count = _readable(target) and _check_classes(target, logits.size(1), ignore_index)
    if all_count:
        return _loss_of_classes(logits, target, None, reduction)
    counts = target != ignore_index
    return _loss_of_classes(logits, target * counts, counts, reduction)


def _smooth(target: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """The target q from probabilities t: (N, C, …)."""
    if smoothing:
        target = (1 - smoothing) * target + smoothing / max(target.size(1), 1)
    return target if weight is None else target * weight.reshape(-1, *[1] * (target.dim() - 2))


def _one_hot(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Classes t (N, …) → q, and what 'mean' divides by."""
    counts = target != ignore_index
    if _readable(target):
        _check_classes(target, logits.size(1), ignore_index)
    classes = torch.where(counts, target, 0).unsqueeze(1)
    hot = torch.zeros_like(logits).scatter(1, classes, 1.0)
    mass = _smooth(hot, weight, smoothing) * counts.unsqueeze(1)
    each = counts if weight is None else counts * weight[classes.squeeze(1)]
    return mass, each.sum().to(logits.dtype)


def _readable(target: Tensor) -> bool:
    """Whether looking at the values costs no synchronisation and breaks no graph; fake tensors have none."""
    plain = type(target) is Tensor and target.device.type == "cpu"
    return plain and not torch.compiler.is_compiling() and not in_torch_func()


def _check_classes(target: Tensor, classes: int, ignore_index: int) -> bool:
    """Raise ``IndexError`` for a class that is none; whether every target is known to count."""
    if not target.numel():
        return False
    least, greatest = map(int, target.aminmax())
    if least >= 0 and greatest < classes:
        return not least <= ignore_index <= greatest
    wrong = target[(target != ignore_index) & ((target < 0) | (target >= classes))]
    if wrong.numel():
        raise IndexError(f"Target {wrong[0]} is out of bounds: the classes are 0…{classes - 1}")
    return False


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    algorithm: str = "direct",
) -> Tensor:
    """``torch.nn.functional.cross_entropy`` with the backward of ``algorithm``.

    Args:
        input: Logits (C,) or (N, C, …).
        target: Classes 0 … C − 1, () or (N, …), int64, or uint8 where logits are (C,) or (N, C); or
            probabilities, the shape of ``input``, in any floating-point dtype.
        weight: Of each class, (C,), or None for 1.
        size_average, reduce: The old names of ``reduction``.
        ignore_index: The class that does not count.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: ε, 0…1.
        algorithm: A name from ``cnnexp.ops.algorithm_names("cross_entropy")``.

    Returns:
        A scalar; the shape of the classes with ``reduction="none"``.

    Raises:
        RuntimeError, ValueError: Shapes, dtypes or ranges do not fit together (as torch).
        IndexError: A class is none of 0 … C − 1 (as torch; found on CPU).
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> logits = torch.zeros(1, 4, requires_grad=True)
        >>> ops.cross_entropy(logits, torch.tensor([2])).backward()
        >>> logits.grad.tolist()  # p − 1 at the class, p elsewhere
        [[0.25, 0.25, -0.75, 0.25]]
    """
    return get_algorithm("cross_entropy", algorithm)(
        input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
    )


declare(
    cross_entropy,
    native=F.cross_entropy,
    direct=_direct,
    summary="softmax and logarithm together: softmax minus target",
)
