"""Errors of a function and of its gradients, as single numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def values_and_gradients(
    function: Callable[..., Any], tensors: Sequence[Tensor], arguments: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """All results of ``function``, and the gradients of a fixed random projection of the first result.

    The tensors keep their memory layout; tensors without floating-point numbers get no gradient.
    """
    inputs = [_leaf(t) if isinstance(t, Tensor) else t for t in tensors]
    output = function(*inputs, **arguments)
    outputs = list(output) if isinstance(output, tuple) else [output]
    generator = torch.Generator().manual_seed(7)
    shape, dtype = outputs[0].shape, outputs[0].dtype
    wide = torch.complex128 if dtype.is_complex else torch.float64
    grad = torch.randn(shape, generator=generator, dtype=wide).to(outputs[0].device, dtype)
    grads = torch.autograd.grad(
        outputs[0], [t for t in inputs if isinstance(t, Tensor) and t.requires_grad], grad
    )
    return [t.detach() for t in outputs], list(grads)


def _leaf(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone(memory_format=torch.preserve_format)
    return copy.requires_grad_(copy.is_floating_point() or copy.is_complex())


def largest_error(found: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest magnitude of its tensor where that is above 1.

    It is infinite where shapes differ, or where infinities or NaN differ.
    """
    largest = 0.0
    for one, other in zip(found, true, strict=True):
        if one.shape != other.shape:
            return torch.inf
        one, other = (as_real(each).double() for each in (one, other))
        finite = other.isfinite()
        if not torch.equal(one.nan_to_num(0, 1, -1)[~finite], other.nan_to_num(0, 1, -1)[~finite]):
            return torch.inf
        if not torch.equal(one.isnan(), other.isnan()) or not one[finite].isfinite().all():
            return torch.inf
        if finite.any():
            scale = max(1.0, other[finite].abs().max().item())
            largest = max(largest, (one - other)[finite].abs().max().item() / scale)
    return largest


def as_real(tensor: Tensor) -> Tensor:
    """``tensor``, a complex one as pairs of real numbers."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
