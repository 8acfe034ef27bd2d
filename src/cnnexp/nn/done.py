"""What stands in the place of a layer that the layer before it computes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from cnnexp.nn.layer import traced
from cnnexp.nn.marks import Block, has_mark, mark


class Done(nn.Identity):
    """In place of ``part``, which the layer before it computes where its mark says so."""

    def __init__(self, part: nn.Module, block: Block) -> None:
        super().__init__()
        self.__dict__["part"] = part  # kept out of the submodules, as it is seldom run
        self.block = block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward`` with the hooks; ``torch.fx`` traces one node."""
        if args and isinstance(args[0], fx.Proxy):
            return traced(self, args[0].tracer, args, kwargs)
        if not args or not has_mark(args[0], self.block):
            return super().__call__(*args, **kwargs)
        output = super().__call__(*args, done=True, **kwargs)
        return mark(output, self.block) if isinstance(output, Tensor) else output

    def forward(self, input: Tensor, done: bool = False) -> Tensor:
        """Return ``input`` as it is, unless another layer has taken the place of the one before."""
        return input if done or has_mark(input, self.block) else vars(self)["part"](input)

    def extra_repr(self) -> str:
        """Name the layer whose place it is."""
        return f"done by the layer before: {type(self.part).__name__}"


def is_done(layer: nn.Module) -> bool:
    """Whether ``layer`` is an identity in place of a part of a fused block."""
    return isinstance(layer, Done)
