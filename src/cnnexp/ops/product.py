"""The product of two matrices in a fixed order of sums, and its gradients by itself.

    c[m, n] = Σ_k a[m, k] · b[k, n]
    ∂L/∂a[m, k] = Σ_n ∂L/∂c[m, n] · b[k, n]        ∂L/∂b[k, n] = Σ_m a[m, k] · ∂L/∂c[m, n]

Libraries sum as it suits the number of threads and the processor; here the bits depend on a and b alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnexp.kernels.cpu import product as cpu
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.kernel_calls import way_to

takes = cpu.takes


def by_kernel(one: Tensor, other: Tensor, bias: Tensor | None = None) -> Tensor:
    """a·b + bias from (M, K), (K, N) and (N,) → (M, N), which autograd does not see."""
    return way_to(cpu.product, one, other)(one, other, bias)


def product(one: Tensor, other: Tensor) -> Tensor:
    """a·b from (M, K) and (K, N) → (M, N), which can be differentiated as often as one likes."""
    return _product(one, other) if torch.is_grad_enabled() else by_kernel(one, other)


def forward(one: Tensor, other: Tensor) -> Tensor:
    """The product c."""
    return by_kernel(one, other)


def grad_one(grad_output: Tensor, other: Tensor) -> Tensor:
    """∂L/∂a from ∂L/∂c: (M, N) and b → (M, K)."""
    return product(grad_output, other.t())


def grad_other(grad_output: Tensor, one: Tensor) -> Tensor:
    """∂L/∂b from ∂L/∂c: (M, N) and a → (K, N)."""
    return product(one.t(), grad_output)


_product = differentiable(forward, one=grad_one, other=grad_other, tangent="linear")
