"""Tensors that a backward computes again instead of keeping them.

An output such as y = act(γ·x̂ + β) can be computed from what its own op keeps anyway. A reader that needs y in
its backward, as a convolution for ∂L/∂w, then keeps these tensors in its place, which takes no memory, and
computes y again when it needs it: by the same function of the same numbers, so to the same bits.

Such an output carries a :class:`Recipe`. It stands on the tensor as an attribute, which any view or copy is
without, and which holds until something is written into the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp.ops.forward_mode import transformed
from cnnexp.ops.torch_internals import writes_into

_NAME = "recipe_of_cnnexp"


class Readers:
    """Those who compute a tensor again in a backward: the first does, and the last of them lets it go.

    Attributes:
        count: How many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._left = 0
        self._value: Tensor | None = None

    def value(self, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor, for one of them; by ``compute`` where no other holds it.

        With ``create_graph`` each computes its own: the value of another may be without a graph.
        """
        if torch.is_grad_enabled():
            return compute()
        value = self._value
        if value is None:
            value = compute()
        self._left = (self._left or self.count) - 1
        self._value = value if self._left > 0 else None
        return value


class Recipe(NamedTuple):
    """How a tensor is computed again.

    Attributes:
        compute: The function; it can be differentiated twice.
        tensors: Its first arguments, which the ops that made the tensor keep, or recipes of them.
        rest: Its other arguments.
        version: How often something had been written into the tensor.
        readers: Who computes it again.
    """

    compute: Callable[..., Tensor]
    tensors: tuple[Tensor | Recipe | None, ...]
    rest: tuple[Any, ...]
    version: int
    readers: Readers

    def __reduce__(self) -> tuple[Any, ...]:
        """An empty set: a file with the tensor has no use for it, and any reader takes that."""
        return set, ()

    @property
    def depth(self) -> int:
        """How many recipes stand one within the other."""
        inside = [each.depth for each in self.tensors if isinstance(each, Recipe)]
        return 1 + max(inside, default=0)

    def value(self) -> Tensor:
        """The tensor."""

        def compute() -> Tensor:
            own = [each.value() if isinstance(each, Recipe) else each for each in self.tensors]
            return self.compute(*own, *self.rest)

        return self.readers.value(compute)


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
        mark(output, Recipe(compute, tensors, rest, 0, Readers()))
    return output


def mark(output: Tensor, recipe: Recipe) -> None:
    """Let ``output``, as it is now, be computed again by ``recipe``.

    A tensor of somebody's own class stays without: some hand on what stands on a tensor to its results.
    """
    if type(output) is Tensor:
        setattr(output, _NAME, recipe._replace(version=writes_into(output)))


def marked_as(found: Tensor, output: Tensor) -> Tensor:
    """``found``, which has the memory of ``output``, with the recipe of that."""
    recipe = recipe_of(output)
    if recipe is not None:
        mark(found, recipe)
    return found


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
    if type(tensor) is not Tensor or not isinstance(recipe, Recipe):
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
            recipe.readers.count += 1
            plan[place] = _emptied(recipe)
            kept += _tensors_of(recipe)
    return plan, kept


def to_keep_outside(
    tensors: Sequence[Tensor | None],
) -> tuple[Plan, Sequence[Tensor | None]]:
    """:func:`to_keep` outside of transforms, where most have no recipe."""
    for each in tensors:
        if getattr(each, _NAME, None) is not None:
            return to_keep(tensors)
    return {}, tensors


def again(plan: Plan, kept: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """The tensors of which :func:`to_keep` has made ``plan`` and ``kept``."""
    if not plan:
        return kept
    found: list[Tensor | None] = []
    left = iter(kept)
    more = sum(len([*_tensors_of(recipe)]) - 1 for recipe in plan.values())
    for place in range(len(kept) - more):
        recipe = plan.get(place)
        found.append(next(left) if recipe is None else _filled(recipe, left).value())
    return found


def _tensors_of(recipe: Recipe) -> Iterator[Tensor | None]:
    """What ``recipe`` and those within it need."""
    for each in recipe.tensors:
        if isinstance(each, Recipe):
            yield from _tensors_of(each)
        else:
            yield each


def _emptied(recipe: Recipe) -> Recipe:
    """``recipe`` with None for each tensor, which a Function may hold in ``save_for_backward`` alone."""
    inside = [_emptied(each) if isinstance(each, Recipe) else None for each in recipe.tensors]
    return recipe._replace(tensors=tuple(inside))


def _filled(recipe: Recipe, tensors: Iterator[Tensor | None]) -> Recipe:
    """An emptied ``recipe`` with the next of ``tensors``."""
    inside = [
        _filled(each, tensors) if isinstance(each, Recipe) else next(tensors)
        for each in recipe.tensors
    ]
    return recipe._replace(tensors=tuple(inside))
