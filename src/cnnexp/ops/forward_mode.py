"""Forward-mode differentiation (``torch.func.jvp``, ``jacfwd``, ``hessian``) of our Functions.

A Function with a ``jvp`` breaks the graph under ``torch.compile``, and one that saves tensors for
it keeps them alive. So each op has a second Function, with ``jvp``, for calls in forward mode.
"""

from __future__ import annotations

import torch

from cnnexp.ops.torch_internals import forward_level, in_torch_func


def in_forward_mode() -> bool:
    """Whether the call stands in ``torch.func.jvp`` or ``torch.autograd.forward_ad.dual_level``."""
    return not torch.compiler.is_compiling() and forward_level() >= 0


def transformed() -> bool:
    """Whether the call is traced by ``torch.compile``, or stands in ``torch.func`` or forward mode."""
    # each call of each op asks: the question of forward mode would ask for the compiler again
    return torch.compiler.is_compiling() or in_torch_func() or forward_level() >= 0
