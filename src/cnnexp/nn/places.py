"""Where the layers of a block stand in their parent."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import nn


class Places:
    """The names of a block's layers in their parent, which it does not keep alive.

    Nothing is known of them where the parent is gone, as of layers that somebody has put elsewhere, and after
    pickling, which would take the parent along with each layer: they then stand where they shall.

    Args:
        parent: Of all of them; None if it is not known.
        names: Of the first layer, and of those that it computes, in their order.
    """

    def __init__(self, parent: nn.Module | None, names: Sequence[str]) -> None:
        self._parent = None if parent is None else weakref.ref(parent)
        self._names = list(names)

    def parent(self) -> nn.Module | None:
        """The parent, if it is known."""
        return None if self._parent is None else self._parent()

    def hold(self, block: object) -> bool:
        """Whether the layers of ``block`` stand there; found again where their parent has renamed them."""
        parent = self.parent()
        if parent is None or self._are_in(parent, block):
            return True
        names = [name for name, layer in parent.named_children() if _block_of(layer) is block]
        every = [name for name, _ in parent.named_children()]
        if len(names) != len(self._names) or not isinstance(parent, nn.Sequential):
            return False
        first = every.index(names[0])
        if every[first : first + len(names)] != names or _is_identity(getattr(parent, names[0])):
            return False
        self._names = names
        return True

    def has_first(self, block: object) -> bool:
        """Whether the first layer of ``block`` is in the parent."""
        parent = self.parent()
        if parent is None:
            return True
        first = getattr(parent, self._names[0], None)
        if _block_of(first) is block and not _is_identity(first):
            return True
        return any(
            _block_of(layer) is block and not _is_identity(layer) for layer in parent.children()
        )

    def _are_in(self, parent: nn.Module, block: object) -> bool:
        found = [getattr(parent, name, None) for name in self._names]
        return all(_block_of(each) is block for each in found) and not _is_identity(found[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> Places:
        """Return the places in the parent's copy, which is begun before those of its children."""
        return Places(memo.get(id(self.parent())), self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        return Places, (None, self._names)


def _block_of(layer: nn.Module | None) -> object:
    """Of which block ``layer`` is, the first or an identity; None for none."""
    return getattr(layer, "of_block", None)


def _is_identity(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.Identity)
