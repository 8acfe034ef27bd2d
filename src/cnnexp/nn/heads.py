"""The first layer of a block, which computes what stands behind it, too, as long as that stands there.

``fuse_blocks`` puts identities in the places of activation and pooling (``cnnexp.nn.done``). Others may put
layers of their own there, or in the place of the first layer. Where that is gone, the identities compute what
they stand for; where one of the identities is gone, the first layer finds out when it is called, and becomes
again what it was. Under ``torch.compile`` nobody looks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.done import Done
from cnnexp.nn.layer import Layer
from cnnexp.nn.marks import Block, mark
from cnnexp.nn.places import Places
from cnnexp.ops.torch_internals import is_replica

log = logging.getLogger(__name__)


class Head(Layer):
    """A mixin for a layer that may compute what stands behind it; it precedes the layer of ``torch.nn``.

    Attributes:
        of_block: Which it and the layers behind it are; None of a layer that ``fuse_blocks`` has not made.
        marks: Whether its output gets a mark of that block, see ``cnnexp.nn.marks``.
        places: Where it and what it computes stand; None where nobody needs to know.
    """

    of_block: Block | None = None
    marks = False
    places: Places | None = None

    def part_again(self) -> None:
        """Become the layer that stood here before ``fuse_blocks``."""
        raise NotImplementedError(f"{type(self).__name__} must define part_again()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward`` with the hooks, which may put another tensor in the place of its output."""
        if self.places is not None and not (torch.compiler.is_compiling() or _stands(self)):
            split(self)
            return self(*args, **kwargs)
        return self.marked(super().__call__(*args, **kwargs))

    def marked(self, output: Any) -> Any:
        """``output`` with the block's mark, if it gets one."""
        return mark(output, self.of_block) if self.marks and isinstance(output, Tensor) else output


def _stands(head: Head) -> bool:
    """Whether the layers of the block are where they were, or side by side elsewhere in the same parent."""
    assert head.places is not None
    # a replica of ``DataParallel``, whose places are those of the original, lives for one pass
    return head.places.hold(head.of_block) or is_replica(head)


def settle_blocks(module: nn.Module) -> None:
    """Split the blocks of ``module`` whose layers are gone from their places; for who counts on blocks."""
    for layer in [*module.modules()]:
        if isinstance(layer, Head) and layer.places is not None and not _stands(layer):
            split(layer)


def put_in_place(
    head: Head,
    block: Block,
    places: Sequence[tuple[nn.Module, str]],
    parts: Sequence[nn.Module],
    kind: type[Done] = Done,
) -> None:
    """Let ``head`` compute ``parts``, which are replaced by identities.

    Args:
        head: The first layer of ``block``.
        block: A new one.
        places: Parent and name of ``head``, and of each of ``parts``.
        parts: The layers behind it.
        kind: Of identity.
    """
    (parent, _), *others = places
    alone = all(other is parent for other, _ in others)
    known = Places(parent, [name for _, name in places]) if alone else None
    for part, (other, name) in zip(parts, others, strict=True):
        setattr(other, name, kind(part, block, known))
    vars(head).update(of_block=block, places=known)


def split(head: Head) -> None:
    """Let ``head``, and what it computed, be what they were, where a part of its block is gone."""
    block, places, before = head.of_block, head.places, type(head).__name__
    parent = None if places is None else places.parent()
    for name, layer in [] if parent is None else [*parent.named_children()]:
        if isinstance(layer, Done) and layer.of_block is block:
            setattr(parent, name, layer.part_again())
    head.part_again()
    head.algorithm = way_of(head)
    log.warning(
        "%s is %s again: another layer stands in its place, or in that of its activation or pooling, than "
        "when the network was converted; convert it again for a block",
        before,
        type(head).__name__,
    )


def forget(head: Head, names: Sequence[str], become: Callable[[], None]) -> None:
    """Take the attributes off that a block has, and let it ``become`` what it was."""
    for name in ("of_block", "marks", "places", *names):
        vars(head).pop(name, None)
    become()


def way_of(layer: Layer) -> str:
    """The algorithm of ``layer``, or what its op has in the place of that."""
    known = layer.algorithm in ops.algorithm_names(layer.op)
    return layer.algorithm if known else layer.way_by(layer.algorithm)
