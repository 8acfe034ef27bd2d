"""Half precision: computed inside in float32, as torch does."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """``tensor``, if of half precision as float32: sums overflow and derivatives cancel before."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
