"""Which numbers products are computed in: half precision inside in float32, and float32 in all its bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.backends import cuda, cudnn, mkldnn

_HALF = (torch.float16, torch.bfloat16)
_WHOLE = ("ieee", "none")  # which of torch's precisions round nothing


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """``dtype``, float32 in the place of half precision."""
    return torch.float32 if dtype in _HALF else dtype


def widened(tensor: Tensor) -> Tensor:
    """``tensor``, if of half precision as float32: sums overflow and derivatives cancel before."""
    return tensor.float() if tensor.dtype in _HALF else tensor


@contextmanager
def whole_float32() -> Iterator[None]:
    """Within it nobody rounds the factors of a float32 product, as to 10 bits (TF32), which cuDNN does."""
    try:
        convolutions, products = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # the program has used torch's newer settings, which these do not mix with
        with _whole_of_each_library():
            yield
        return
    cudnn.allow_tf32 = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        cudnn.allow_tf32 = convolutions  # pyright: ignore[reportAttributeAccessIssue]
        torch.set_float32_matmul_precision(products)


@contextmanager
def _whole_of_each_library() -> Iterator[None]:
    told: list[Any] = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv]  # pyright: ignore
    rounding = [each for each in told if each.fp32_precision not in _WHOLE]
    before = [each.fp32_precision for each in rounding]
    for each in rounding:
        each.fp32_precision = "ieee"
    try:
        yield
    finally:
        for each, precision in zip(rounding, before, strict=True):
            each.fp32_precision = precision
