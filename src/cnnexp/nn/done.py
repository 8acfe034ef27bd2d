"""What stands in the place of a layer that the layer before it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnexp.nn.layer import traced
from cnnexp.nn.marks import Block, has_mark, mark
from cnnexp.nn.places import Places
from cnnexp.ops.torch_internals import hand_over_hooks


class Done(nn.Identity):
    """In place of ``part``, an activation or a pooling that a convolution before it computes."""

    def __init__(self, part: nn.Module, block: Block, places: Places | None) -> None:
        super().__init__()
        self.__dict__["part"] = part  # kept out of the submodules, as it is seldom run
        self.of_block, self.places = block, places

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward`` with the hooks; ``torch.fx`` traces one node."""
        if args and isinstance(args[0], fx.Proxy):
            return traced(self, args[0].tracer, args, kwargs)
        return super().__call__(*args, **kwargs)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` as it is, unless another layer has taken the place of the convolution."""
        if (
            self.places is None
            or torch.compiler.is_compiling()
            or self.places.has_first(self.of_block)
        ):
            return input
        return vars(self)["part"](input)

    def part_again(self) -> nn.Module:
        """The layer whose place it is, with the hooks that were put on this one."""
        part: nn.Module = vars(self)["part"]
        part.training = self.training
        hand_over_hooks(self, part)
        return part

    def extra_repr(self) -> str:
        """Name the layer whose place it is."""
        return f"done by the layer before: {type(self.part).__name__}"


class Activated(Done):
    """In place of a layer that the normalisation before it computes, where its mark says so."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward`` with the hooks; ``torch.fx`` traces one node."""
        if not args or not has_mark(args[0], self.of_block):
            return super().__call__(*args, **kwargs)
        output = super().__call__(*args, done=True, **kwargs)
        return mark(output, self.of_block) if isinstance(output, Tensor) else output

    def forward(self, input: Tensor, done: bool = False) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return ``input`` as it is, unless another layer has taken the place of the normalisation."""
        return input if done or has_mark(input, self.of_block) else vars(self)["part"](input)


def is_done(layer: nn.Module) -> bool:
    """Whether ``layer`` is an identity in place of a part of a fused block."""
    return isinstance(layer, Done)
