"""A mark on a tensor: the layer before has activated it, so that the activation after it has nothing to do.

A normalisation that computes its activation (``BatchNormAct2d`` of ``fuse_blocks``) marks what it returns,
and the activation in its place takes the mark off and returns its input. Who puts another layer in the place
of the normalisation, as ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` does, gets no mark and so the
activation. The mark is on the tensor and not on a layer: layers run in threads, several times a step, and as
copies.
"""

from __future__ import annotations

from torch import Tensor

_NAME = "activated_by_cnnexp"


def mark(output: Tensor) -> Tensor:
    """``output`` with the mark."""
    setattr(output, _NAME, True)
    return output


def took_mark(input: Tensor) -> bool:
    """Whether ``input`` had the mark, which it has no longer."""
    if not getattr(input, _NAME, False):
        return False
    setattr(input, _NAME, False)  # torch.compile cannot delete it
    return True
