"""A mark on a tensor: the layer before has activated it, so that the activation after it has nothing to do.

A normalisation that computes its activation (``BatchNormAct2d`` of ``fuse_blocks``) marks what it returns,
and the activation in its place takes the mark off and returns its input. With a pooling there are two marks,
of which the pooling takes the second. Who puts another layer in the place
of the normalisation, as ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` does, gets no mark and so the
activation. The mark is on the tensor and not on a layer: layers run in threads, several times a step, and as
copies. Hooks may put other tensors in the place of input and output, as those of a full backward do; so a
layer's ``__call__`` looks for marks before its hooks, and sets them after.
"""

from __future__ import annotations

from torch import Tensor

_NAME = "activated_by_cnnexp"


def mark(output: Tensor, layers: int) -> Tensor:
    """``output`` with the marks for so many ``layers`` after this one."""
    setattr(output, _NAME, layers)
    return output


def marks_of(input: object) -> int:
    """How many marks ``input`` has."""
    return int(getattr(input, _NAME, 0))


def took_mark(input: Tensor) -> bool:
    """Whether ``input`` had a mark, of which it has one less now."""
    left = marks_of(input)
    if left:
        mark(input, left - 1)  # torch.compile cannot delete it
    return left > 0
