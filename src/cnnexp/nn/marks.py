"""A mark on a tensor: the layer before has activated it, so that the activation after it has nothing to do.

A normalisation that computes its activation (``BatchNormAct2d`` of ``fuse_blocks``), and maybe a pooling,
marks what it returns with the number of its block, and what stands in the place of these layers returns its
input where it has that mark. Who puts another layer in the place of the normalisation, as
``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` does, gets no mark and so the activation. The mark is on the
tensor and not on a layer: layers run in threads, several times a step, and as copies. Hooks may put other
tensors in the place of input and output, as those of a full backward do; so a layer's ``__call__`` looks for
marks before its hooks, and sets them after.

A mark stays, as a checkpoint that begins between the normalisation and its activation calls the activation
a second time: with the same tensor, or, with ``use_reentrant=True``, with another one of the same storage,
which has the mark as well. That of a ReLU of several places is void once the tensor has changed: after
``z += y`` the ReLU has to activate the same tensor again. It is on the tensor alone, since a ReLU of what a
ReLU gave changes neither result nor gradient.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cnnexp.ops.torch_internals import in_torch_func, writes_into

_BLOCK = "activated_in_block_of_cnnexp"
_WRITES = "activated_by_cnnexp_after_writes"


@dataclass(frozen=True)
class Block:
    """A block of a normalisation and the layers after it.

    Attributes:
        shared: Whether its activation is a ReLU of several places.
        number: Its number, which copies of the layers keep. Under ``torch.compile`` nobody looks at it:
            layers of one kind would be compiled again for each of their numbers.
    """

    _numbers: ClassVar = itertools.count()

    shared: bool
    number: int = field(default_factory=_numbers.__next__)


def mark(output: Tensor, block: Block | None) -> Tensor:
    """``output`` with the mark of ``block``, or without one for None."""
    if block is None:
        return output
    if block.shared:
        setattr(output, _WRITES, writes_into(output) if _counts_writes(output) else 0)
        return output
    setattr(output, _BLOCK, block)
    storage = _storage(output)
    if storage is not None:
        setattr(storage, _BLOCK, block)
    return output


def has_mark(input: object, block: Block) -> bool:
    """Whether ``input`` has the mark of ``block``, whose layers are called in one place."""
    if not isinstance(input, Tensor):
        return False
    found = getattr(input, _BLOCK, None)
    if torch.compiler.is_compiling():
        return found is not None
    return (getattr(_storage(input), _BLOCK, None) if found is None else found) == block


def has_mark_for_relu(input: Tensor) -> bool:
    """Whether ``input`` has a mark for a ReLU of several places, and nobody has changed it since."""
    writes = getattr(input, _WRITES, None)
    if writes is None:
        return False
    if _counts_writes(input):
        return writes_into(input) == writes
    setattr(input, _WRITES, None)  # the first ReLU takes it off; torch.compile cannot delete it
    return True


def _counts_writes(tensor: Tensor) -> bool:
    return not (torch.compiler.is_compiling() or tensor.is_inference())


def _storage(tensor: Tensor) -> object:
    """The memory of ``tensor``, one object for all tensors on it; None where there is none to be had."""
    if torch.compiler.is_compiling() or in_torch_func():
        return None
    return (
        tensor.untyped_storage()
        if type(tensor) is Tensor and tensor.layout == torch.strided
        else None
    )
