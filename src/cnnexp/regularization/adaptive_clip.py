"""Adaptive gradient clipping: by the ratio of a unit's gradient to its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AdaptiveClip"]


class AdaptiveClip:
    """Shorten the gradient of each unit to ``ratio`` times the norm of its weights.

        g[o] ← g[o] · min(1, ratio · max(‖w[o]‖, eps) / ‖g[o]‖)

    A unit is an output channel or a row; a bias or a scale is one unit for each element.

    Args:
        ratio: λ > 0; usual values lie between 0.01 and 0.1.
        eps: The least norm of weights that counts, > 0, so that weights at 0 can leave it.

    Raises:
        ValueError: A range is violated.

    Source: Brock, De, Smith & Simonyan, "High-Performance Large-Scale Image Recognition Without
    Normalization" (2021), equation 3.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import AdaptiveClip
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[0.0, 2.0]])
        >>> layer.weight.grad = torch.tensor([[6.0, 8.0]])
        >>> AdaptiveClip(0.5)(layer)
        >>> layer.weight.grad.norm().item()  # half of the weights' norm
        1.0
    """

    name = "adaptive_clip"

    def __init__(self, ratio: float, eps: float = 1e-3) -> None:
        if ratio <= 0 or eps <= 0:
            raise ValueError(
                f"regularization.clip.adaptive and its eps must be above 0, but got {ratio} and {eps}"
            )
        self.ratio, self.eps = ratio, eps

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        """Clip the gradients of ``network``, in place."""
        for parameter in network.parameters():
            grad = parameter.grad
            if grad is not None:
                limit = self.ratio * _unit_norms(parameter).clamp(min=self.eps)
                grad.mul_((limit / _unit_norms(grad).clamp(min=1e-12)).clamp(max=1.0))


def _unit_norms(values: Tensor) -> Tensor:
    if values.dim() < 2:
        return values.abs()
    return torch.linalg.vector_norm(values, dim=tuple(range(1, values.dim())), keepdim=True)
