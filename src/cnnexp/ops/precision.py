"""Which numbers products are computed in: half precision inside in float32, and float32 in all its bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.backends import cudnn

_HALF = (torch.float16, torch.bfloat16)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """``dtype``, float32 in the place of half precision."""
    return torch.float32 if dtype in _HALF else dtype


def widened(tensor: Tensor) -> Tensor:
    """``tensor``, if of half precision as float32: sums overflow and derivatives cancel before."""
    return tensor.float() if tensor.dtype in _HALF else tensor


@contextmanager
def whole_float32() -> Iterator[None]:
    """Within it no GPU rounds the factors of a float32 product to 10 bits (TF32), as cuDNN else does."""
    convolutions, products = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    cudnn.allow_tf32 = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        cudnn.allow_tf32 = convolutions  # pyright: ignore[reportAttributeAccessIssue]
        torch.set_float32_matmul_precision(products)
