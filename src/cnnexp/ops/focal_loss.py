"""The focal loss: a cross-entropy in which what is classified well already counts little.

For logits z (N, C), s = softmax(z), the class t of a sample, p = s[t], and γ ≥ 0,

    L = −(1 − p)^γ · log p
    ∂L/∂z[k] = (s[k] − [k = t]) · ((1 − p)^γ − γ · p · (1 − p)^(γ−1) · log p)

since ∂p/∂z[k] = p · ([k = t] − s[k]). γ = 0 is the cross-entropy. With class weights w each L counts w[t]
times, and 'mean' divides by their sum, as the cross-entropy's does.

Source: Lin, Goyal, Girshick, He & Dollár, "Focal Loss for Dense Object Detection" (2017), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.ops.autocast import autocast_dtype
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.precision import widened
from cnnexp.ops.reduction import named_reduction, reduced
from cnnexp.ops.registry import declare, get_algorithm


def forward(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """The losses L from z (N, C, …) and t (N, …) → (N, …)."""
    log_p = _log_likelihood(logits, target)
    return -(_missing(log_p) ** gamma) * log_p


def grad_logits(grad_output: Tensor, logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """∂L/∂z from the gradient of each L: (N, …), z: (N, C, …) and t: (N, …)."""
    log_p = _log_likelihood(logits, target)
    rest = _missing(log_p)
    slope = rest**gamma
    if gamma:
        slope = slope - gamma * log_p.exp() * rest ** (gamma - 1) * log_p
    likely, classes = logits.softmax(1), target.unsqueeze(1)
    hot = torch.zeros_like(likely).scatter(1, classes, 1.0)
    return (likely - hot) * (grad_output * slope).unsqueeze(1)


def tangent(logits_tangent: Tensor, logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """The tangent of each L: (N, …), its gradient times the tangent of its z."""
    ones = torch.ones_like(logits.select(1, 0))
    return (grad_logits(ones, logits, target, gamma) * logits_tangent).sum(1)


def _log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    """Log p of each sample's class."""
    return logits.log_softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)


def _missing(log_p: Tensor) -> Tensor:
    """1 − p, of which a power below 0 stays finite where p is 1."""
    return (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).tiny)


_losses = differentiable(forward, logits=grad_logits, tangent=tangent)


def _native(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    reduction: str = "mean",
) -> Tensor:
    """The same by torch's own operations and autograd."""
    reduction = _checked(input, target, weight, gamma, reduction)
    losses = F.cross_entropy(input, target, reduction="none")
    focused = (-(-losses).expm1()).clamp_min(torch.finfo(losses.dtype).tiny) ** gamma * losses
    return _total(focused, target, weight, reduction)


def _direct(
    input: Tensor, target: Tensor, weight: Tensor | None, gamma: float, reduction: str
) -> Tensor:
    reduction = _checked(input, target, weight, gamma, reduction)
    dtype = input.dtype if autocast_dtype(input) is None else widened(input).dtype
    losses = _losses(widened(input), target, gamma)
    return _total(losses, target, weight, reduction).to(dtype)


def _checked(
    input: Tensor, target: Tensor, weight: Tensor | None, gamma: float, reduction: str
) -> str:
    if gamma < 0:
        raise ValueError(f"focal_loss needs a gamma of at least 0, but got {gamma}")
    if input.dim() < 2 or target.shape != (input.size(0), *input.shape[2:]):
        raise ValueError(
            f"focal_loss needs logits (N, C, …) and classes (N, …), but got {list(input.shape)} and "
            f"{list(target.shape)}"
        )
    if target.dtype != torch.int64:
        raise ValueError(f"focal_loss takes classes as torch.int64, but got {target.dtype}")
    if weight is not None and weight.shape != (input.size(1),):
        raise ValueError(
            f"focal_loss needs a weight for each of {input.size(1)} classes, but got {list(weight.shape)}"
        )
    return named_reduction(None, None, reduction)


def _total(losses: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is None:
        return reduced(losses, reduction)
    each = weight.detach().to(losses.dtype)[target]
    total = reduced(losses * each, "none" if reduction == "none" else "sum")
    return total / each.sum() if reduction == "mean" else total


def focal_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    reduction: str = "mean",
    *,
    algorithm: str = "direct",
) -> Tensor:
    """The focal loss of classes, with the backward of ``algorithm``.

    Args:
        input: Logits (N, C, …).
        target: Classes 0 … C − 1, (N, …), int64.
        weight: Of each class, (C,), or None for 1.
        gamma: γ ≥ 0: how little a sample counts that is classified well; 0 is the cross-entropy, 2 is usual.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        algorithm: A name from ``cnnexp.ops.algorithm_names("focal_loss")``.

    Returns:
        A scalar; (N, …) with ``reduction="none"``.

    Raises:
        ValueError: Shapes, dtypes or ranges do not fit together.
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> logits = torch.zeros(1, 2, requires_grad=True)
        >>> ops.focal_loss(logits, torch.tensor([0]), gamma=0.0).backward()
        >>> logits.grad.tolist()  # that of the cross-entropy, p − 1 at the class
        [[-0.5, 0.5]]
    """
    return get_algorithm("focal_loss", algorithm)(input, target, weight, gamma, reduction)


declare(
    focal_loss,
    native=_native,
    direct=_direct,
    summary="softmax minus target, times the derivative of the focus",
)
