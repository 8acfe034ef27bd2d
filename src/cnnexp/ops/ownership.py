"""What an op returns belongs to the caller, who may change it in place, as torch's results.

Autograd forbids that for a view which a custom Function returns, although nobody else holds what it
is a view of. ``detach`` makes it a tensor of its own over the same memory: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["owned", "owned_gradients"]


def owned(output: Tensor) -> Tensor:
    """``output`` of a Function's forward, which must not share memory with an input, as no view."""
    return output.detach()


def owned_gradients(gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The same for a Function's backward, unless its gradients are to be differentiated again."""
    if torch.is_grad_enabled():
        return tuple(gradients)
    return tuple(None if each is None else each.detach() for each in gradients)
