"""The gradients of a convolution by the library's kernels for just these, without autograd.

On a GPU they are cuDNN's, to which the formulas have no other public way; on both they are the bits that
torch's own backward gives.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from cnnexp.geometry.convolution import Conv2dGeometry

__all__ = ["grad_input", "grad_weight"]


def grad_input(grad_output: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂x from ∂L/∂y: (N, C_out, P, Q) and w → (N, C_in, H, W)."""
    g = geometry
    size = (grad_output.size(0), weight.size(1) * g.groups, *g.input_size)
    return conv2d_input(size, weight, grad_output, *_window(g))


def grad_weight(grad_output: Tensor, input: Tensor, geometry: Conv2dGeometry) -> Tensor:
    """∂L/∂w from ∂L/∂y: (N, C_out, P, Q) and x → (C_out, C_in/groups, K_h, K_w)."""
    g = geometry
    size = (grad_output.size(1), input.size(1) // g.groups, *g.kernel_size)
    return conv2d_weight(input, size, grad_output, *_window(g))


def _window(g: Conv2dGeometry) -> tuple[Any, ...]:  # torch annotates the pairs as int
    return g.stride, g.padding, g.dilation, g.groups
