"""What tells numba which kind of number stands at an address: a number of each kind that kernels take."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["ONES"]

ONES: dict[torch.dtype, Any] = {
    torch.float32: np.float32(1),
    torch.float64: np.float64(1),
    torch.bfloat16: np.uint16(1),  # its bits
}
