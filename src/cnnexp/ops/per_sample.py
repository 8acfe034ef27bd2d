"""Squared norms of the gradient of each sample, without writing batch × parameters.

With g_n[t, o] = ∂L/∂y and what it is multiplied with, x_n[t, d], at the T positions of sample n,

    ∂L/∂w_n[o, d] = Σ_t g_n[t, o]·x_n[t, d]
    ‖∂L/∂w_n‖² = Σ_{o, d} (Σ_t g_n[t, o]·x_n[t, d])²                        materialised:  T·O·D products
               = Σ_{t, s} (Σ_o g_n[t, o]·g_n[s, o])·(Σ_d x_n[t, d]·x_n[s, d])       Gram:  T²·(O + D)
               = ‖g_n‖²·‖x_n‖²                                               where T = 1

    ‖∂L/∂b_n‖² = Σ_o (Σ_t g_n[t, o])²

For the linear layer x is the input; for the convolution it is the patch at each position, and the norms of
the groups are added. The cheaper count is taken, and the batch goes through in slices: beside the results, at
most ``MOST_NUMBERS`` numbers are written (16 times as many on a GPU), or what one sample needs. A fused block
whose ∂L/∂w_n are few, at most ``kernels.cpu.norms.KEPT_NUMBERS`` numbers in the whole batch, hands them out
as well: in the article's network its first two blocks, which have 4.8 % of batch × parameters.

Where the positions' gradients cancel each other, the Gram way subtracts large numbers: in float32 the squared
norm is exact to some 1e-7 of (Σ_t ‖g_n[t]‖·‖x_n[t]‖)², not of itself.

Source: Goodfellow, "Efficient Per-Example Gradient Computations" (2015), for T = 1; Bu, Mao & Xu, "Scalable
and Efficient Training of Large Convolutional Neural Networks with Differential Privacy" (2022), for the
choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cnnexp.geometry.convolution import Conv2dGeometry
from cnnexp.kernels.cpu.norms import winners_squared_norms
from cnnexp.ops.conv2d import direct
from cnnexp.ops.conv2d.function import grad_bias as conv2d_grad_bias
from cnnexp.ops.conv_relu_pool import fused
from cnnexp.ops.linear import grad_bias as linear_grad_bias
from cnnexp.ops.precision import widened

__all__ = [
    "MOST_NUMBERS",
    "SquaredNorms",
    "block_squared_norms",
    "conv2d_squared_norms",
    "linear_squared_norms",
]

MOST_NUMBERS = 1 << 22  # written at a time: 16 MiB in float32
_MOST_ON_GPU = 1 << 26  # where few large products are faster than many small ones
_PIECE = 4096  # numbers of a sum that no threads share
_FEW_OUTPUTS = 8  # of a group; below, the library's convolution is faster than a product of patches


class SquaredNorms(NamedTuple):
    """Of the gradients of N samples.

    Attributes:
        weight: ‖∂L/∂w_n‖², (N,) in float64.
        bias: ‖∂L/∂b_n‖², (N,) in float64, whether the layer has a bias or not.
        gradients: ∂L/∂w_n, (N, *weight's shape), where they are few and were computed on the way; else None.
            ``kernels.cpu.norms.weighted_gradients`` is then their weighted sum.
        biases: ∂L/∂b_n, (N, C_out), beside ``gradients``.
    """

    weight: Tensor
    bias: Tensor
    gradients: Tensor | None = None
    biases: Tensor | None = None


@torch.no_grad()
def linear_squared_norms(grad_output: Tensor, input: Tensor, copies: int = 1) -> SquaredNorms:
    """Of the linear layer, from ∂L/∂y: (N·K, …, C_out) and x: (N·K, …, C_in).

    Args:
        grad_output: ∂L/∂y.
        input: x.
        copies: K; the gradients of each K rows are added up and are those of one sample.

    Examples:
        >>> import torch
        >>> grad, x = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
        >>> linear_squared_norms(grad, x).weight.tolist()  # (1 + 4)·(9 + 16), and 0
        [125.0, 0.0]
    """
    if copies > 1:
        grad_output, input = (each.unflatten(0, (-1, copies)) for each in (grad_output, input))
    bias = _squared(linear_grad_bias(widened(grad_output), per_sample=True))
    if grad_output.dim() == 2:
        return SquaredNorms(_squared(grad_output) * _squared(input), bias)
    positions = math.prod(grad_output.shape[1:-1])
    sizes = positions, grad_output.size(-1), input.size(-1)

    def norms(grad_output: Tensor, input: Tensor) -> Tensor:
        grads = grad_output.reshape(-1, positions, grad_output.size(-1)).transpose(1, 2)
        return _product_norms(grads, input.reshape(-1, positions, input.size(-1)).transpose(1, 2))

    return SquaredNorms(_by_slices(norms, _numbers(*sizes), grad_output, input), bias)


@torch.no_grad()
def conv2d_squared_norms(
    grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry, copies: int = 1
) -> SquaredNorms:
    """Of the convolution, from ∂L/∂y: (N·K, C_out, P, Q) and x: (N·K, C_in, H, W), without extra zeros.

    Args:
        grad_output: ∂L/∂y.
        input: x.
        geometry: Of the convolution.
        copies: K; the gradients of each K rows are added up and are those of one sample.
    """
    of_bias = conv2d_grad_bias(widened(grad_output), per_sample=True)
    bias = _squared(of_bias.unflatten(0, (-1, copies)).sum(1))
    g, c_in, c_out = geometry, input.size(1), grad_output.size(1)
    positions, outputs = copies * math.prod(g.output_size), c_out // g.groups
    weights = c_in // g.groups * math.prod(g.kernel_size)
    by_gram = _gram_is_cheaper(positions, outputs, weights)

    def norms(grad_output: Tensor, input: Tensor) -> Tensor:
        image = g.add_extra(input)
        if outputs < _FEW_OUTPUTS and not by_gram and copies == 1:
            return _squared(
                direct.grad_weight(grad_output, image, g, per_sample=True).flatten(2)
            ).sum(1)
        patches = _patches(image, g, copies)
        grads = _together(grad_output.reshape(len(image), g.groups, outputs, -1), copies)
        return _product_norms(grads, patches).view(-1, g.groups).sum(1)

    numbers = g.groups * _numbers(positions, outputs, weights)
    return SquaredNorms(_by_slices(norms, numbers, grad_output, input, rows=copies), bias)


def _patches(image: Tensor, geometry: Conv2dGeometry, copies: int) -> Tensor:
    """What each position of each sample is multiplied with: (N·K, C_in, H, W) → (N·G, D, K·T)."""
    groups, weights = geometry.groups, image.size(1) // geometry.groups
    weights *= math.prod(geometry.kernel_size)
    windows = geometry.as_view(geometry.pad(image)).unflatten(0, (-1, copies))
    by_sample = windows.permute(0, 2, 5, 6, 1, 3, 4)  # (N, C_in, K_h, K_w, K, P, Q)
    return by_sample.reshape(
        len(by_sample) * groups, weights, copies * math.prod(geometry.output_size)
    )


def _together(values: Tensor, copies: int) -> Tensor:
    """(N·K, G, D, T) → (N·G, D, K·T)."""
    split = values.unflatten(0, (-1, copies)).permute(0, 2, 3, 1, 4)
    return split.reshape(-1, split.size(2), copies * split.size(4))


@torch.no_grad()
def block_squared_norms(
    grad_output: Tensor, code: Tensor, input: Tensor, plan: fused.Plan, copies: int = 1
) -> SquaredNorms:
    """Of the fused block, from ∂L/∂(pooled) and its code (N, C_out, P, Q), x: (N, C_in, H, W) and its plan.

    Where the gradients take the winners alone, so do the norms (``kernels.cpu.norms``); else they are the
    convolution's, by ∂L/∂z.
    """
    if plan.sparse and copies == 1:
        image = plan.conv.add_extra(input)
        arguments = widened(grad_output), code, widened(image), plan.conv, plan.pool
        return SquaredNorms(*winners_squared_norms(*arguments))
    return conv2d_squared_norms(fused.spread(grad_output, code, plan), input, plan.conv, copies)


def _gram_is_cheaper(positions: int, outputs: int, weights: int) -> bool:
    return positions * (outputs + weights) < outputs * weights


def _numbers(positions: int, outputs: int, weights: int) -> int:
    """How many numbers :func:`_product_norms` and its arguments need for a sample."""
    gram = _gram_is_cheaper(positions, outputs, weights)
    product = 3 * positions**2 if gram else outputs * weights
    return positions * (outputs + weights) + product


def _product_norms(grads: Tensor, inputs: Tensor) -> Tensor:
    """‖grads_n·inputs_nᵀ‖² for grads (N, O, T) and inputs (N, D, T) → (N,)."""
    if not _gram_is_cheaper(grads.size(2), grads.size(1), inputs.size(1)):
        return _squared(grads @ inputs.transpose(1, 2)).sum(1)
    products = (grads.transpose(1, 2) @ grads) * (inputs.transpose(1, 2) @ inputs)
    return products.double().sum(2).sum(1).clamp_(min=0)


def _by_slices(
    norms: Callable[..., Tensor], numbers: int, *tensors: Tensor, rows: int = 1
) -> Tensor:
    """``norms`` of ``tensors``, as many samples of ``rows`` rows at a time as ``MOST_NUMBERS`` holds."""
    most = _MOST_ON_GPU if tensors[0].is_cuda else MOST_NUMBERS
    n, together = len(tensors[0]), rows * max(1, most // max(1, numbers))
    parts = [slice(begin, begin + together) for begin in range(0, n, together)]
    made = [norms(*(widened(each[part]) for each in tensors)) for part in parts]
    return torch.cat(made) if made else tensors[0].new_empty(0, dtype=torch.float64)


def _squared(values: Tensor) -> Tensor:
    """Sums of squares along the last dimension, in float64.

    Long ones by pieces: where one number is the result, torch splits the sum by the number of threads.
    """
    squares = values.double().square()
    whole = squares.size(-1) // _PIECE * _PIECE
    pieces = squares[..., :whole].unflatten(-1, (whole // _PIECE, _PIECE))
    return pieces.sum(-1).sum(-1) + squares[..., whole:].sum(-1)
