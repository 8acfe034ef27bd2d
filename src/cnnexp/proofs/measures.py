"""Errors of a function and of its gradients, as single numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    outputs = [t for _, t in named_outputs(function(*inputs, **arguments))]
    generator = torch.Generator().manual_seed(7)
    grad = torch.randn(outputs[0].shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(
        outputs[0],
        [t for t in inputs if isinstance(t, Tensor) and t.requires_grad],
        grad.to(outputs[0].device, outputs[0].dtype),
    )
    return [t.detach() for t in outputs], list(grads)


def named_outputs(result: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in ``result``, alone or in tuples, lists, mappings and dataclasses, each with its name.

    A complex one comes as pairs of real numbers.
    """
    if isinstance(result, Tensor):
        yield name, as_real(result)
        return
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    name = name.replace("the output", "output")
    if isinstance(result, Mapping):
        for key, value in result.items():
            yield from named_outputs(value, f"{name}[{key!r}]")
    elif isinstance(result, (tuple, list)):
        for i, value in enumerate(result):
            yield from named_outputs(value, f"{name}[{i}]")


def _leaf(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone(memory_format=torch.preserve_format)
    return copy.requires_grad_(can_require_grad(copy))


def can_require_grad(tensor: Tensor) -> bool:
    """Whether ``tensor`` has numbers that can require a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


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
