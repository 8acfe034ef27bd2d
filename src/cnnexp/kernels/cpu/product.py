"""The product of two matrices on the CPU as a torch operator; see ``product_kernels``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cnnexp.kernels.operators import operator

__all__ = ["product", "takes"]

_DTYPES = (torch.float32, torch.float64)
_NO_BIAS = {dtype: torch.empty(0, dtype=dtype).numpy() for dtype in _DTYPES}


def takes(*tensors: Tensor | None) -> bool:
    """Whether the kernel takes such matrices, and such a bias."""
    return all(
        each is None or (each.device.type == "cpu" and each.dtype in _DTYPES and each.numel() > 0)
        for each in tensors
    )


def _empty(one: Tensor, other: Tensor, bias: Tensor | None) -> Tensor:
    return one.new_empty(one.size(0), other.size(1))


@operator("matrix_product", _empty)
def product(one: Tensor, other: Tensor, bias: Tensor | None) -> Tensor:
    """(M, K), (K, N) and (N,) → (M, N): one·other + bias, of the same bits however many threads there are."""
    from cnnexp.kernels.cpu.product_kernels import multiply

    output = _empty(one, other, bias)
    turned = not other.is_contiguous()
    known = _NO_BIAS[one.dtype] if bias is None else _array(bias)
    multiply(_array(one), _array(other.t() if turned else other), turned, known, output.numpy())
    return output


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
