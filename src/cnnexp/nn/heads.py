"""The first layer of a block, which computes what stands behind it, too, as long as that stands there.

``fuse_blocks`` puts identities in the places of activation and pooling (``cnnexp.nn.done``). Others may put
layers of their own there, or in the place of the first layer: that one then gives no mark, and the identities
compute what they stand for (``cnnexp.nn.marks``). And where one of the identities is gone, the first layer
finds out when it is called, and becomes again what it was.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.done import Done
from cnnexp.nn.layer import Layer
from cnnexp.nn.marks import Block, mark

log = logging.getLogger(__name__)

Place = tuple[nn.Module, str]  # a parent, and the name of a layer in it


class Places:
    """Where the layers of a block stand, the first one's place first; it keeps no layer alive."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._known = [(weakref.ref(parent), name) for parent, name in places]

    def alive(self) -> list[Place]:
        """The places whose parents are still there."""
        found = [(parent(), name) for parent, name in self._known]
        return [(parent, name) for parent, name in found if parent is not None]

    def layers(self) -> list[nn.Module | None]:
        """What stands in these places."""
        return [getattr(parent, name, None) for parent, name in self.alive()]

    def __deepcopy__(self, memo: dict[int, Any]) -> Places:
        """Return the places in the copies of the parents, or in the parents where these are not copied."""
        return Places([(memo.get(id(parent), parent), name) for parent, name in self.alive()])

    def __reduce__(self) -> tuple[Any, ...]:
        return Places, (self.alive(),)


class Head(Layer):
    """A mixin for a layer that may compute what stands behind it; it precedes the layer of ``torch.nn``.

    Attributes:
        of_block: Whose mark its output gets; None of a layer that ``fuse_blocks`` has not made.
        places: Where it and what it computes stand; None where nobody needs to know.
        part_again: Turns it into what it was before ``fuse_blocks``.
    """

    of_block: Block | None = None
    places: Places | None = None

    def part_again(self) -> None:
        """Become the layer that stood here before ``fuse_blocks``."""
        raise NotImplementedError(f"{type(self).__name__} must define part_again()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward`` with the hooks, which may put another tensor in the place of its output."""
        if self.places is not None and not (torch.compiler.is_compiling() or _stands(self)):
            split(self)
            return self(*args, **kwargs)
        output = super().__call__(*args, **kwargs)
        return mark(output, self.of_block) if isinstance(output, Tensor) else output


def _stands(head: Head) -> bool:
    """Whether the layers of the block are where they were, or copies of them."""
    assert head.places is not None
    for layer in head.places.layers():
        block = layer.block if isinstance(layer, Done) else getattr(layer, "of_block", None)
        if block is not head.of_block:
            return False
    return True


def put_in_place(
    head: Head, block: Block, place: Place, parts: Sequence[tuple[nn.Module, Sequence[Place]]]
) -> None:
    """Let ``head`` compute ``parts``, each in its places, whose layers are replaced by identities.

    Args:
        head: The first layer of ``block``.
        block: A new one.
        place: That of ``head``.
        parts: The layers behind it, and where they stand.
    """
    everywhere = [place]
    for part, places in parts:
        for parent, name in places:
            setattr(parent, name, Done(part, block))
        everywhere += places
        if isinstance(part, Layer) and len(places) == 1:
            part.done_by = block  # who reaches it by another container, made before
    vars(head).update(of_block=block, places=Places(everywhere))


def split(head: Head) -> None:
    """Let ``head``, and what it computed, be what they were, where a part of its block is gone."""
    block, places, before = head.of_block, head.places, type(head).__name__
    for parent, name in [] if places is None else places.alive():
        layer = getattr(parent, name, None)
        if isinstance(layer, Done) and layer.block is block:
            restore(parent, name, layer)
    head.part_again()
    head.algorithm = way_of(head)
    log.warning(
        "%s is %s again: another layer stands in its place, or in that of its activation or pooling, than "
        "when the network was converted; convert it again for a block",
        before,
        type(head).__name__,
    )


def restore(parent: nn.Module, name: str, done: Done) -> None:
    """Put what ``done`` stands for into its place."""
    vars(done.part).pop("done_by", None)
    setattr(parent, name, done.part)


def forget(head: Head, names: Sequence[str], become: Callable[[], None]) -> None:
    """Take the attributes off that a block has, and let it ``become`` what it was."""
    for name in ("of_block", "places", *names):
        vars(head).pop(name, None)
    become()


def way_of(layer: Layer) -> str:
    """The algorithm of ``layer``, or what its op has in the place of that."""
    known = layer.algorithm in ops.algorithm_names(layer.op)
    return layer.algorithm if known else layer.way_by(layer.algorithm)
