"""Sharpness-aware minimisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnexp.optim.torch_internals import whole_step


class SAM(torch.optim.SGD):
    """SGD by the gradient not at the weights but at the worst point nearby, ``rho`` along the gradient.

        ε = ρ · g(w) / ‖g(w)‖₂        w ← SGD(w, g(w + ε))

    A step takes two forward and backward passes, so ``step`` needs the closure that makes them. The
    norm runs over all parameters together.

    Args:
        params: Parameters or groups of them.
        lr, momentum, weight_decay, nesterov: Of the SGD step, see ``torch.optim.SGD``.
        rho: Distance ρ ≥ 0 to the worst point; 0 is plain SGD at twice the cost.

    Raises:
        ValueError: A range is violated.
        RuntimeError: ``step`` was called without a closure.

    Source: Foret, Kleiner, Mobahi & Neyshabur, "Sharpness-Aware Minimization for Efficiently
    Improving Generalization" (2021), algorithm 1.
    """

    asks_again = True
    whole_weights = True

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        rho: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if rho < 0:
            raise ValueError(f"rho must be at least 0, but got {rho}")
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
        self.rho = rho

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; ``closure`` clears the gradients, computes the loss and its gradients."""
        if closure is None:
            raise RuntimeError("SAM needs a closure: it computes the gradient twice a step")
        with torch.enable_grad():
            loss = closure()
        moved = self._climb()
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for parameter, at in moved:
                parameter.copy_(at)  # subtracting ε instead would round
        whole_step(torch.optim.SGD)(self)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file holds."""
        return {**super().__getstate__(), "rho": self.rho}

    @torch.no_grad()
    def _climb(self) -> list[tuple[Tensor, Tensor]]:
        """Move the parameters to the worst point; return each with its former values."""
        parameters = [
            p for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(p.grad) for p in parameters])
        )
        moved = [(p, p.clone()) for p in parameters]
        for parameter in parameters:
            parameter.add_(parameter.grad * (self.rho / (norm + 1e-12)))
        return moved
