"""L-BFGS for parameters in any memory layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cnnexp.optim.torch_internals import lost_by_copies_of_lbfgs, whole_step


class LBFGS(torch.optim.LBFGS):
    """``torch.optim.LBFGS`` that also takes gradients in channels_last; torch's takes contiguous ones only.

    Args:
        params: Parameters, in one group.
        lr: The length of a step, or of the first try of the line search.
        max_iter: Iterations per step, each with one or more evaluations of the closure.
        history_size: How many past gradients the curvature is estimated from.
        line_search_fn: ``"strong_wolfe"``, or None for steps of length ``lr``.
        max_eval, tolerance_grad, tolerance_change: As for ``torch.optim.LBFGS``.

    Source: Liu & Nocedal, "On the Limited Memory BFGS Method for Large Scale Optimization" (1989).
    """

    def step(self, closure: Callable[[], Any]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; ``closure`` clears the gradients, computes the loss and its gradients."""

        def contiguous() -> Any:
            loss = closure()
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad = parameter.grad.contiguous()
            return loss

        return whole_step(torch.optim.LBFGS)(self, contiguous)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file holds."""
        return {**super().__getstate__(), **lost_by_copies_of_lbfgs(self)}
