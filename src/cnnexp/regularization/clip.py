"""Gradient clipping: by the norm of all, by each value, or by each unit's ratio to its weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from cnnexp.regularization.regularizer import Regularizer


@dataclass
class Clip(Regularizer):
    """Shorten the gradient before each step, in one of three ways.

    Args:
        norm: The greatest norm of the gradient of all parameters together, > 0.
        value: The greatest magnitude of each number of it, > 0.
        adaptive: The greatest ratio of a unit's gradient to its weights, > 0, see :func:`clip_units`.

    Raises:
        ValueError: Not just one of them is given, or it is not positive.

    Source: Pascanu, Mikolov & Bengio, "On the difficulty of training Recurrent Neural Networks" (2013),
    for the norm.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import Clip
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> Clip(value=2.0).gradients([weight])
        >>> weight.grad.tolist()
        [2.0, 2.0]
    """

    name = "clip"
    sole = "clip the gradients"

    norm: float | None = None
    value: float | None = None
    adaptive: float | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"regularization.clip: needs one of norm, value, adaptive, but got {given or 'none'}"
            )
        self.require(getattr(self, given[0]) > 0, given[0], "above 0")

    def gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Clip the gradients of ``parameters``, in place."""
        if self.norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.norm)
        elif self.value is not None:
            nn.utils.clip_grad_value_(parameters, self.value)
        elif self.adaptive is not None:
            clip_units(parameters, self.adaptive)


@torch.no_grad()
def clip_units(parameters: Iterable[nn.Parameter], ratio: float, eps: float = 1e-3) -> None:
    """Shorten the gradient of each unit to ``ratio`` times the norm of its weights.

        g[o] ← g[o] · min(1, ratio · max(‖w[o]‖, eps) / ‖g[o]‖)

    A unit is an output channel or a row; a bias or a scale is one unit for each element.

    Args:
        parameters: Whose gradients are clipped in place; those without one are passed over.
        ratio: λ > 0; usual values lie between 0.01 and 0.1.
        eps: The least norm of weights that counts, > 0, so that weights at 0 can leave it.

    Raises:
        ValueError: A range is violated.

    Source: Brock, De, Smith & Simonyan, "High-Performance Large-Scale Image Recognition Without
    Normalization" (2021), equation 3.

    Examples:
        >>> import torch
        >>> from cnnexp.regularization import clip_units
        >>> weight = torch.nn.Parameter(torch.tensor([[0.0, 2.0]]))
        >>> weight.grad = torch.tensor([[6.0, 8.0]])
        >>> clip_units([weight], 0.5)
        >>> weight.grad.norm().item()  # half of the weights' norm
        1.0
    """
    if ratio <= 0 or eps <= 0:
        raise ValueError(
            f"regularization.clip.adaptive and its eps must be above 0, but got {ratio} and {eps}"
        )
    for parameter in parameters:
        grad = parameter.grad
        if grad is not None:
            limit = ratio * _unit_norms(parameter).clamp(min=eps)
            grad.mul_((limit / _unit_norms(grad).clamp(min=1e-12)).clamp(max=1.0))


def _unit_norms(values: Tensor) -> Tensor:
    if values.dim() < 2:
        return values.abs()
    return torch.linalg.vector_norm(values, dim=tuple(range(1, values.dim())), keepdim=True)
