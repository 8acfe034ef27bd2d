"""Inputs of a convolution of which less has to be kept than torch's own operations keep.

- A product x·s, as of squeeze-and-excitation: x and s are kept for its own backward, and give it again.
- A part of a tensor, as of ``chunk``: a copy of the part is kept, not the memory of the whole.
- An operand of a sum that is computed again; see :mod:`cnnexp.ops.recomputed_sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cnnexp.ops.forward_mode import transformed
from cnnexp.ops.layout import is_channels_last
from cnnexp.ops.recomputed import recipe_of, recomputable
from cnnexp.ops.recomputed_sums import note
from cnnexp.ops.torch_internals import factors_of

__all__ = ["INPUTS"]


def _operand(input: Tensor) -> Tensor:
    note(input)
    return input


def _product(input: Tensor) -> Tensor:
    if transformed() or recipe_of(input) is not None:
        return input
    factors = factors_of(input)
    if factors is None or any(each.dtype != input.dtype for each in factors):
        return input
    return recomputable(input, torch.mul, factors)


def _part(input: Tensor) -> Tensor:
    if transformed() or not input.requires_grad or input.dim() != 4:
        return input
    if is_channels_last(input):
        return input.clone(memory_format=torch.channels_last)
    # with gaps between the columns, torch's convolution may take another way than for a copy
    return input.clone(memory_format=torch.contiguous_format) if input.stride(3) == 1 else input


INPUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "operand": _operand,
    "product": _product,
    "part": _part,
}
"""By what an input is: what a convolution reads in its place, of the same values."""
