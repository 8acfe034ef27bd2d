"""How the algorithms of the pooling become the op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cnnexp.geometry.pooling import pool_geometry
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.layout import laid_out
from cnnexp.ops.registry import Algorithm, register


def _as_they_are(indices: Tensor, geometry: WindowGeometry) -> Tensor:  # noqa: ARG001
    return indices


def make_max_pool2d(
    forward: Callable[..., tuple[Tensor, Tensor]],
    grad_input: Callable[..., Tensor],
    indices_of: Callable[[Tensor, WindowGeometry], Tensor] = _as_they_are,
) -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
    """The function of an algorithm of ``max_pool2d``, out of its plain functions.

    Args:
        forward: (input, geometry) → output and what is kept of the winners' indices i·W + j.
        grad_input: (grad_output, what is kept, geometry) → ∂L/∂input.
        indices_of: (what is kept, geometry) → the indices; they are kept themselves if it is not given.
    """

    def of_the_winners(input_tangent: Tensor, indices: Tensor, geometry: WindowGeometry) -> Tensor:
        found = indices_of(indices, geometry)
        return input_tangent.flatten(2).gather(2, found.flatten(2)).view_as(found)

    pooled = differentiable(
        forward, input=grad_input, tangent=of_the_winners, outputs=("output", "indices")
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
        output, kept = (laid_out(t, batch) for t in pooled(batch, geometry))
        output = output if input.dim() == 4 else output.squeeze(0)
        if not return_indices:
            return output
        indices = indices_of(kept, geometry)
        return output, indices if input.dim() == 4 else indices.squeeze(0)

    return max_pool2d


def register_max_pool2d(name: str, *functions: Callable[..., Any], summary: str) -> None:
    """Enter the algorithm ``name`` of ``max_pool2d``, of plain functions; see :func:`make_max_pool2d`."""
    register(Algorithm("max_pool2d", name, make_max_pool2d(*functions), summary))
