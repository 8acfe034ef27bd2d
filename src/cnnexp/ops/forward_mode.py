"""Forward-mode differentiation (``torch.func.jvp``, ``jacfwd``, ``hessian``) of our Functions.

A Function with a ``jvp`` breaks the graph under ``torch.compile``, and one that saves tensors for
it keeps them alive. So each op has a second Function, with ``jvp``, for calls in forward mode.
"""

from __future__ import annotations

import torch

from cnnexp.ops.torch_internals import forward_level, transformed

__all__ = ["in_forward_mode", "transformed"]


def in_forward_mode() -> bool:
    """Whether the call stands in ``torch.func.jvp`` or ``torch.autograd.forward_ad.dual_level``."""
    return not torch.compiler.is_compiling() and forward_level() >= 0
