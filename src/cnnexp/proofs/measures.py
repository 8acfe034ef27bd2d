"""Errors of a function and of its gradients, as single numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["differences_error", "largest_error", "values_and_gradients"]


def values_and_gradients(
    function: Callable[..., Any], tensors: Sequence[Tensor], arguments: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """All that ``function`` returns, and the gradients of a fixed random projection of the first.

    The tensors keep their memory layout; what needs no gradient is not differentiated by.
    """
    inputs = [t.detach().clone(memory_format=torch.preserve_format) for t in tensors]
    inputs = [t.requires_grad_(t.is_floating_point()) for t in inputs]
    output = function(*inputs, **arguments)
    outputs = list(output) if isinstance(output, tuple) else [output]
    generator = torch.Generator().manual_seed(7)
    shape, dtype = outputs[0].shape, outputs[0].dtype
    grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(outputs[0].device, dtype)
    grads = torch.autograd.grad(outputs[0], [t for t in inputs if t.requires_grad], grad)
    return [t.detach() for t in outputs], list(grads)


def largest_error(found: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest magnitude of each tensor where above 1.

    Infinite where shapes differ, or where what is not finite differs.
    """
    largest = 0.0
    for one, other in zip(found, true, strict=True):
        if one.shape != other.shape:
            return torch.inf
        one, other = one.double(), other.double()
        finite = other.isfinite()
        if not torch.equal(one.nan_to_num(0, 1, -1)[~finite], other.nan_to_num(0, 1, -1)[~finite]):
            return torch.inf
        if not torch.equal(one.isnan(), other.isnan()) or not one[finite].isfinite().all():
            return torch.inf
        if finite.any():
            scale = max(1.0, other[finite].abs().max().item())
            largest = max(largest, (one - other)[finite].abs().max().item() / scale)
    return largest


def differences_error(
    function: Callable[..., Any],
    tensors: Sequence[Tensor],
    arguments: dict[str, Any],
    step: float = 1e-6,
) -> float:
    """The largest error of the gradients against central differences, relative as above.

    Every element of every tensor is moved by ``step`` both ways; float64 gives about 1e-9.
    """
    _, grads = values_and_gradients(function, tensors, arguments)
    inputs = [t.detach().clone(memory_format=torch.contiguous_format) for t in tensors]
    generator = torch.Generator()

    def project() -> float:
        output = function(*inputs, **arguments)
        output = output[0] if isinstance(output, tuple) else output
        generator.manual_seed(7)
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        return (output * weights.to(output.device)).sum().item()

    errors = []
    with torch.no_grad():
        for tensor, grad in zip(inputs, grads, strict=True):
            flat, numeric = tensor.view(-1), torch.empty(tensor.numel(), dtype=torch.float64)
            for i in range(flat.numel()):
                value = flat[i].item()
                flat[i] = value + step
                above = project()
                flat[i] = value - step
                below = project()
                flat[i] = value
                numeric[i] = (above - below) / (2 * step)
            errors.append(largest_error([grad], [numeric.view(grad.shape).to(grad.device)]))
    return max(errors, default=0.0)
