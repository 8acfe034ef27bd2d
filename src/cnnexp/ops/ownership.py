"""What an op returns belongs to the caller, who may change it in place, as torch's results.

Autograd forbids that for a view which a custom Function returns, although nobody else holds what it
is a view of. ``detach`` makes it a tensor of its own over the same memory: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnexp.ops.torch_internals import is_batched_by_autograd


def owned(output: Tensor) -> Tensor:
    """``output`` of a Function's forward, which must not share memory with an input, as no view."""
    if torch.compiler.is_compiling():  # which does not trace the question below
        return output.detach()
    return owned_outside(output)


def owned_outside(output: Tensor) -> Tensor:
    """:func:`owned` where nothing is compiled."""
    # batched gradients (is_grads_batched, of gradcheck too) know no detach
    return output if is_batched_by_autograd(output) else output.detach()


def owned_gradients(gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """``gradients`` of a Function's backward, each :func:`owned` unless it is to be differentiated again."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return tuple(gradients)
    return tuple([None if each is None else owned_outside(each) for each in gradients])
