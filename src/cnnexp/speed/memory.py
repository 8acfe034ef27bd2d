"""How much a forward pass keeps for its backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["saved_bytes"]


def saved_bytes(forward: Callable[[], Tensor], without: Iterable[Tensor] = ()) -> int:
    """Bytes of all tensors that ``forward`` saves for the backward, each memory counted once.

    Args:
        forward: Returns what the backward would start from.
        without: Tensors that are there anyway, the parameters.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in without}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()
    del output
    return sum(kept.values())
