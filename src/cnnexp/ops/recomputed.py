"""Tensors that a backward computes again instead of keeping them.

An output such as y = act(γ·x̂ + β) can be computed from what its own op keeps anyway. A reader that needs y in
its backward, as a convolution for ∂L/∂w, then keeps these tensors in its place, which takes no memory, and
computes y again when it needs it: by the same function of the same numbers, so to the same bits.

Such an output carries a :class:`Recipe`. It stands on the tensor as an attribute, which any view or copy is
without, and which holds until something is written into the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp.ops.forward_mode import transformed
from cnnexp.ops.torch_internals import writes_into

_NAME = "recipe_of_cnnexp"


class Recipe(NamedTuple):
    """How a tensor is computed again.

    Attributes:
        compute: The function; it can be differentiated twice.
        tensors: Its first arguments, which the op that made the tensor keeps.
        rest: Its other arguments.
        version: How often something had been written into the tensor.
    """

    compute: Callable[..., Tensor]
    tensors: tuple[Tensor | None, ...]
    rest: tuple[Any, ...]
    version: int

    def __reduce__(self) -> tuple[Any, ...]:
        """An empty set: a file with the tensor has no use for it, and any reader takes that."""
        return set, ()


Plan = dict[int, Recipe]  # by the place of a tensor, without the recipe's tensors


def recomputable(
    output: Tensor,
    compute: Callable[..., Tensor],
    tensors: tuple[Tensor | None, ...],
    *rest: Any,
) -> Tensor:
    """``output``, which is ``compute(*tensors, *rest)``, with this recipe where a backward may follow.

    In ``torch.func`` and under ``torch.compile`` it gets none: there, others decide what is kept.
    """
    if output.requires_grad and not transformed():
        setattr(output, _NAME, Recipe(compute, tensors, rest, writes_into(output)))
    return output


def recipe_of(tensor: Tensor | None) -> Recipe | None:
    """The recipe by which ``tensor`` can be computed again; None without one.

    Examples:
        >>> import torch
        >>> from cnnexp.ops.recomputed import recipe_of, recomputable
        >>> x = torch.ones(2, requires_grad=True)
        >>> y = recomputable(2 * x, lambda x: 2 * x, (x,))
        >>> recipe_of(y) is None, recipe_of(y.add_(1)) is None
        (False, True)
    """
    recipe = getattr(tensor, _NAME, None)
    if tensor is None or not isinstance(recipe, Recipe):
        return None
    return recipe if writes_into(tensor) == recipe.version else None


def can_be_recomputed(tensor: Tensor) -> bool:
    """Whether a backward that follows the call need not keep ``tensor``."""
    return not transformed() and torch.is_grad_enabled() and recipe_of(tensor) is not None


def to_keep(tensors: Sequence[Tensor | None]) -> tuple[Plan, Sequence[Tensor | None]]:
    """What a backward has to keep that needs ``tensors``, and the plan by which :func:`again` gives them."""
    plan: Plan = {}
    if transformed():
        return plan, tensors
    kept: list[Tensor | None] = []
    for place, tensor in enumerate(tensors):
        recipe = recipe_of(tensor)
        if recipe is None:
            kept.append(tensor)
        else:
            plan[place] = recipe._replace(tensors=(None,) * len(recipe.tensors))
            kept += recipe.tensors
    return plan, kept


def again(plan: Plan, kept: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """The tensors of which :func:`to_keep` has made ``plan`` and ``kept``."""
    if not plan:
        return kept
    found: list[Tensor | None] = []
    left = iter(kept)
    for place in range(len(kept) - sum(len(r.tensors) - 1 for r in plan.values())):
        recipe = plan.get(place)
        if recipe is None:
            found.append(next(left))
        else:
            own = [next(left) for _ in recipe.tensors]
            found.append(recipe.compute(*own, *recipe.rest))
    return found
