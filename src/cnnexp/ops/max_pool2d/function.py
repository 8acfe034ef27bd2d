"""How the algorithms of the pooling become the op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cnnexp.geometry.pooling import pool_geometry
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.layout import laid_out
from cnnexp.ops.registry import Algorithm, register


def _of_the_winners(input_tangent: Tensor, indices: Tensor) -> Tensor:
    return input_tangent.flatten(2).gather(2, indices.flatten(2)).view_as(indices)


def make_max_pool2d(
    forward: Callable[..., tuple[Tensor, Tensor]], grad_input: Callable[..., Tensor]
) -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
    """The function of an algorithm of ``max_pool2d``, out of its plain functions.

    Args:
        forward: (input, geometry) → output and the winners' indices i·W + j.
        grad_input: (grad_output, indices, geometry) → ∂L/∂input.
    """
    pooled = differentiable(
        forward, input=grad_input, tangent=_of_the_winners, outputs=("output", "indices")
    )

    def max_pool2d(input: Tensor, *arguments: Any) -> Tensor | tuple[Tensor, Tensor]:
        *window, return_indices = arguments
        geometry = pool_geometry(input, "max_pool2d", *window)
        if geometry.blind_windows():
            # torch accepts this, and its backward then writes outside the gradient's memory
            raise RuntimeError(
                f"max_pool2d has no maximum where a window reads only padding: input "
                f"{geometry.input_size}, kernel_size {geometry.kernel_size}, padding "
                f"{geometry.padding}, dilation {geometry.dilation}; lower the padding or dilation"
            )
        batch = input if input.dim() == 4 else input.unsqueeze(0)
        output, indices = (laid_out(t, batch) for t in pooled(batch, geometry))
        if input.dim() == 3:
            output, indices = output.squeeze(0), indices.squeeze(0)
        return (output, indices) if return_indices else output

    return max_pool2d


def register_max_pool2d(name: str, *functions: Callable[..., Any], summary: str) -> None:
    """Enter the algorithm ``name`` of ``max_pool2d``, of plain functions; see :func:`make_max_pool2d`."""
    register(Algorithm("max_pool2d", name, make_max_pool2d(*functions), summary))
