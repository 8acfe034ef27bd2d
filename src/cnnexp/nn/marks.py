"""A mark on a tensor: the layer before has activated it, so that the activation after it has nothing to do.

A normalisation that computes its activation (``BatchNormAct2d`` of ``fuse_blocks``), and maybe a pooling,
marks what it returns with the number of its block, and what stands in the place of these layers returns its
input where it has that mark. Who puts another layer in the place of the normalisation, as
``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` does, gets no mark and so the activation. The mark is on the
tensor and not on a layer: layers run in threads, several times a step, and as copies. Hooks may put other
tensors in the place of input and output, as those of a full backward do; so a layer's ``__call__`` looks for
marks before its hooks, and sets them after.

A mark stays until somebody writes into the tensor, as a checkpoint that begins between the normalisation and
its activation calls the activation a second time: with the same tensor, or, with ``use_reentrant=True``, with
another one of the same storage, which has the mark as well. (Where the tensor comes from elsewhere the second
time, as with ``save_on_cpu`` around such a checkpoint, the activation is computed again.) A ReLU of several
places after ``z += y`` so activates the same tensor again. Its mark is on the tensor alone, since a ReLU of
what a ReLU gave changes neither result nor gradient; where writes are not counted, it takes the mark off.
What another ReLU gives of the same tensor outside a backward is a tensor of its own, as torch's is: it is
computed. A tensor of somebody's own class gets no mark for a ReLU, since some classes hand on what stands on
a tensor to all that is computed from it.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from cnnexp.ops.torch_internals import in_backward, in_torch_func, writes_into

_BLOCK = "activated_in_block_of_cnnexp"
_FOR_RELU = "activated_by_cnnexp"


class Block:
    """A block of a normalisation and the layers after it; copies of the layers have the same one.

    Attributes:
        shared: Whether its activation is a ReLU of several places.
        number: Its number, by which blocks of copies and files are the same. Under ``torch.compile`` nobody
            looks at it: layers of one kind would be compiled again for each of their numbers.
    """

    _numbers = itertools.count()

    def __init__(self, shared: bool, number: int | None = None) -> None:
        self.shared = shared
        self.number = next(Block._numbers) if number is None else number

    def __deepcopy__(self, memo: Any) -> Block:
        """Return the block itself."""
        return self


def mark(output: Tensor, block: Block | None) -> Tensor:
    """``output`` with the mark of ``block``, or without one for None."""
    if block is None:
        return output
    if block.shared:
        if type(output) is Tensor:
            setattr(output, _FOR_RELU, _writes(output))
    elif torch.compiler.is_compiling():
        setattr(output, _BLOCK, block)
    else:
        value = block.number, _writes(output)
        setattr(output, _BLOCK, value)
        storage = _storage(output)
        if storage is not None:
            setattr(storage, _BLOCK, value)
    return output


def has_mark(input: object, block: Block) -> bool:
    """Whether ``input`` has the mark of ``block``, whose layers are called in one place."""
    if not isinstance(input, Tensor):
        return False
    found = getattr(input, _BLOCK, None)
    if found is None:
        found = getattr(_storage(input), _BLOCK, None)
    return found is block or found == (block.number, _writes(input))


def has_mark_for_relu(input: Tensor) -> bool:
    """Whether a ReLU of several places has nothing to do, as the layer before has activated ``input``."""
    found = getattr(input, _FOR_RELU, None)
    if found is None or type(input) is not Tensor:
        return False
    writes = _writes(input)
    if writes < 0:
        setattr(input, _FOR_RELU, None)  # torch.compile cannot delete it
        return found == writes
    if found == writes:
        setattr(input, _FOR_RELU, (writes,))  # looked at, and not written into until now
        return True
    return found == (writes,) and in_backward()


def _writes(tensor: Tensor) -> int:
    """How often ``tensor`` was written into, −1 where that is not counted."""
    counted = not (torch.compiler.is_compiling() or in_torch_func() or tensor.is_inference())
    return writes_into(tensor) if counted else -1


def _storage(tensor: Tensor) -> object:
    """The memory of ``tensor``, one object for all tensors on it; None where there is none to be had."""
    if torch.compiler.is_compiling() or in_torch_func():
        return None
    return (
        tensor.untyped_storage()
        if type(tensor) is Tensor and tensor.layout == torch.strided
        else None
    )
