"""Sums that a backward computes again, as residual blocks have them: out = act(a + b).

The sum is made by the network's own code, by ``a + b`` or ``a += b``, where nobody can attach a recipe to it
(:mod:`cnnexp.ops.recomputed`). But autograd's graph tells which nodes made its two operands. So the layers
that see an operand leave a note on its node, and who reads the sum finds both there.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from cnnexp.ops.forward_mode import transformed
from cnnexp.ops.recomputed import Recipe, recipe_of
from cnnexp.ops.registry import recorded
from cnnexp.ops.torch_internals import makers_of_sum, notes_on, writes_into

_DEEPEST = 8  # recipes within each other: then a tensor is kept, so that the lists of what is kept stay short


class _Note(NamedTuple):
    """What is known of an operand.

    Attributes:
        tensor: Its recipe, or itself; not held, as the node of a tensor must not hold it.
        version: How often something had been written into it.
        shape, dtype: Its own.
    """

    tensor: Recipe | weakref.ref[Tensor]
    version: int
    shape: torch.Size
    dtype: torch.dtype


def note(operand: Tensor) -> None:
    """Let who reads a sum of ``operand`` and another tensor find it."""
    node = None if transformed() or recorded() else operand.grad_fn
    if node is None:
        return
    recipe = recipe_of(operand)
    known = weakref.ref(operand) if recipe is None else recipe
    notes_on(node)[_name(operand.output_nr)] = _Note(
        known, writes_into(operand), operand.shape, operand.dtype
    )


def operands(total: Tensor) -> tuple[Tensor | Recipe, Tensor | Recipe] | None:
    """What ``total`` is the sum of, if a backward can add it again; each note serves once.

    None where ``total`` is no sum of two tensors of its shape and dtype, where one of them is unknown, and
    where nothing follows a backward.
    """
    if transformed() or not torch.is_grad_enabled():
        return None
    found: list[Tensor | Recipe] = []
    for node, place in makers_of_sum(total):
        noted = notes_on(node).pop(_name(place), None)
        if not isinstance(noted, _Note) or noted[2:] != (total.shape, total.dtype):
            continue
        known = noted.tensor if isinstance(noted.tensor, Recipe) else noted.tensor()
        if isinstance(known, Tensor) and writes_into(known) != noted.version:
            continue  # the sum may stand in it
        if known is not None:
            found.append(known)
    if len(found) != 2 or max(_depth(each) for each in found) >= _DEEPEST:
        return None
    for each in found:
        if isinstance(each, Recipe):
            each.readers.count += 1
    return found[0], found[1]


def _depth(operand: Tensor | Recipe) -> int:
    return operand.depth if isinstance(operand, Recipe) else 0


def _name(place: int) -> str:
    return f"operand_of_cnnexp_{place}"
