"""The CPU kernels of linear layers with their activations, for tensors.

They are called outside of transforms and of ``torch.compile`` alone, which take the block by its parts. numba
compiles at the first call (some seconds a dtype, once a machine) and is imported only then.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnexp.geometry.described import Described
from cnnexp.kernels.cpu.bfloat16 import AVAILABLE
from cnnexp.kernels.cpu.elements import ONES

__all__ = ["FEWEST_NUMBERS", "MOST_LAYERS", "Gradients", "Layers", "backward", "forward", "takes"]

MOST_LAYERS = 3
_FEWEST_ROWS = 8  # whose sums registers hold together
FEWEST_NUMBERS = 16  # of a row; in bfloat16 so many pairs: the lanes of a register
# a word, which is what the kernels multiply, and how many numbers it has
_WORDS = {torch.float32: (np.float32(1), 1), torch.bfloat16: (np.uint32(1), 2)}
_KINDS = {"none": 0, "relu": 1, "tanh": 2}  # as linear_act_rows has them


class Layers(NamedTuple):
    """What linear layers one after the other are, beside their numbers.

    Attributes:
        widths: C_0 … C_L.
        activations: Of each, by name.
        dtype: Of all weights and biases.
    """

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    dtype: torch.dtype


class Gradients(NamedTuple):
    """∂L/∂x, and those of the weights and biases by layer; None where there is no need of one."""

    input: Tensor | None
    weights: Sequence[Tensor | None]
    biases: Sequence[Tensor | None]


def takes(
    input: Tensor | Described,
    weights: Sequence[Tensor | Described],
    biases: Sequence[Tensor | Described | None],
    activations: Sequence[str],
) -> bool:
    """Whether these kernels take such layers on ``input`` (…, C_0): at least eight rows, of at least 16
    numbers, in bfloat16 32 and an even number. Beside ``input`` in bfloat16, all weights may be float32.
    """
    dtype, of_weight = input.dtype, weights[0].dtype
    if input.device.type != "cpu" or dtype not in _WORDS or not set(activations) <= _KINDS.keys():
        return False
    each = _WORDS[dtype][1]
    if (each == 2 and not AVAILABLE) or of_weight not in (dtype, torch.float32):
        return False
    given = [*weights, *[bias for bias in biases if bias is not None]]
    return (
        all(other.dtype == of_weight and other.device.type == "cpu" for other in given)
        and math.prod(input.shape[:-1]) >= _FEWEST_ROWS
        and all(w.shape[1] >= FEWEST_NUMBERS * each and w.shape[1] % each == 0 for w in weights)
        and all(w.shape[0] for w in weights)
    )


def forward(
    input: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], layers: Layers
) -> tuple[Tensor, Tensor]:
    """The last a_l (N, C_L) of x: (N, C_0), and all before it, one after the other: flat."""
    rows, widths = input.size(0), layers.widths
    kept = input.new_empty(rows * sum(widths[1:-1]))
    output = input.new_empty(rows, widths[-1])
    held = [each.contiguous() for each in weights], [_laid(each) for each in biases]
    _forward()(
        input.data_ptr(),
        _addresses(held[0]),
        _addresses(held[1]),
        _filled([*_places(kept, rows, widths), output.data_ptr()]),
        _kinds(input, layers),
        rows,
        _filled(widths, MOST_LAYERS + 1),
        len(weights),
        _filled([_KINDS[name] for name in layers.activations]),
        _threads(),
    )
    return output, kept


def backward(
    grad_output: Tensor,
    output: Tensor | None,
    kept: Tensor | None,
    input: Tensor | None,
    weights: Sequence[Tensor | None],
    layers: Layers,
    needs: tuple[bool, Sequence[bool], Sequence[bool]],
) -> Gradients:
    """The gradients that ``needs`` names: of the input, of the weights, of the biases.

    ``output`` and ``kept`` are what :func:`forward` gave, the former None without an activation behind the
    last layer, the latter None of one layer. The first weight may be None where the input needs no gradient,
    and the input where the first weight does not.
    """
    rows, widths = grad_output.size(0), layers.widths
    of_input, of_weights, of_biases = needs
    outer, held = grad_output.contiguous(), [_laid(each) for each in weights]
    new, places = partial(outer.new_empty, dtype=layers.dtype), [*enumerate(pairwise(widths))]
    made = Gradients(
        outer.new_empty(rows, widths[0]) if of_input else None,
        [new(after, before) if of_weights[layer] else None for layer, (before, after) in places],
        [new(after) if of_biases[layer] else None for layer, (_, after) in places],
    )
    needed = [any(both) for both in zip(of_weights, of_biases, strict=True)]
    inputs = [0 if input is None else input.data_ptr()]
    _backward()(
        (outer.data_ptr(), 0 if output is None else output.data_ptr()),
        _filled([*inputs, *([] if kept is None else _places(kept, rows, widths))]),
        _addresses(held),
        (_addresses(made.weights), _addresses(made.biases)),
        0 if made.input is None else made.input.data_ptr(),
        _kinds(outer, layers),
        rows,
        (
            _filled(widths, MOST_LAYERS + 1),
            _filled([_KINDS[name] for name in layers.activations]),
            len(weights),
        ),
        0 if of_input else needed.index(True),
        _threads(),
    )
    return made


def _places(kept: Tensor, rows: int, widths: Sequence[int]) -> list[int]:
    """The addresses of a_1 … a_{L−1} in ``kept``."""
    start, size = kept.data_ptr(), rows * kept.element_size()
    return [start + size * sum(widths[1:layer]) for layer in range(1, len(widths) - 1)]


def _laid(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.contiguous()


def _addresses(tensors: Sequence[Tensor | None]) -> tuple[int, ...]:
    return _filled([0 if each is None else each.data_ptr() for each in tensors])


def _filled(numbers: Sequence[int], count: int = MOST_LAYERS) -> tuple[int, ...]:
    """``numbers`` and zeros, as many as for the most layers: numba compiles for each length anew."""
    return (*numbers, *[0] * (count - len(numbers)))


def _kinds(rows: Tensor, layers: Layers) -> tuple[Any, ...]:
    """A number of the rows, one of the weights, a word, and how many numbers a word has."""
    return ONES[rows.dtype], ONES[layers.dtype], *_WORDS[rows.dtype]


@functools.cache
def _forward() -> Any:
    from cnnexp.kernels.cpu.linear_act_kernels import forward

    return forward


@functools.cache
def _backward() -> Any:
    from cnnexp.kernels.cpu.linear_act_gradients import backward

    return backward


def _threads() -> int:
    import numba

    return numba.get_num_threads()
