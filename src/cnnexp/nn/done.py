"""What stands in the place of a layer that the layer before it computes."""

from __future__ import annotations

from torch import nn


class Done(nn.Identity):
    """An identity in place of ``part``, an activation or a pooling."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.__dict__["part"] = part  # kept out of the submodules, as it is not run

    def extra_repr(self) -> str:
        """Name the layer whose place it is."""
        return f"done by the layer before: {type(self.part).__name__}"


def is_done(layer: nn.Module) -> bool:
    """Whether ``layer`` is an identity in place of a part of a fused block."""
    return isinstance(layer, Done)
