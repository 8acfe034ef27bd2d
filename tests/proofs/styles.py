"""One call of each right function, Module and closure as other people write them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.proofs.their_functions import (
    AsksWhatIsNeeded,
    BatchNormNumpyStyle,
    ComplexConjugate,
    ContiguousOnly,
    CrossEntropy,
    DeclaredInPlace,
    Embedding,
    FloatInside,
    FloatOnly,
    Im2colNumpy,
    InPlaceInside,
    IntermediateOnCtx,
    LayerNorm,
    LoopConvolution,
    MaskIsNoInput,
    NewStyle,
    NothingMaterialised,
    NotStatic,
    NumpySin,
    NumpyThroughout,
    TwoOutputs,
    ValueOnCtx,
    WithDetachedStatistic,
    WithIndices,
)

__all__ = ["RIGHT"]


def _draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.randn(*shape, generator=generator)


class ListOfTensors(nn.Module):
    def forward(self, parts: list[Tensor], scale: float = 2.0) -> dict[str, Tensor]:
        return {"all": scale * torch.cat(parts), "first": parts[0].square()}


class Normalised(nn.Module):
    """Holds a plain tensor, a buffer that it writes to, a frozen and a trained parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor([1.0, 2.0, 3.0])
        self.register_buffer("calls", torch.zeros(()))
        self.shift = nn.Parameter(torch.ones(3), requires_grad=False)
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (x + self.shift) * self.scale * self.weight


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def _sequential() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5))


class Style(NamedTuple):
    """A right function, one call of it, and the aspects that it does not offer."""

    function: Callable[[], Any]
    call: list[Any]
    missing: tuple[str, ...] = ()
    name: str | None = None


_NO_VMAP = ("batched (vmap)",)
_FIRST_ONLY = ("second derivative", *_NO_VMAP)
_weight = torch.tensor([0.3, -0.7, 1.1], requires_grad=True)
_linear = nn.Linear(3, 2)
_mask = (_draw(4, 3) > 0).float()

RIGHT: dict[str, Style] = {
    "numpy sin": Style(lambda: NumpySin.apply, [_draw(5)], _FIRST_ONLY, "NumpySin"),
    "numpy throughout": Style(lambda: NumpyThroughout, [_draw(5)], _FIRST_ONLY, "NumpyThroughout"),
    "value on ctx": Style(lambda: ValueOnCtx.apply, [_draw(4)], _NO_VMAP),
    "intermediate on ctx": Style(lambda: IntermediateOnCtx.apply, [_draw(4)], _FIRST_ONLY),
    "saved statistics": Style(
        lambda: LayerNorm.apply, [_draw(3, 4), _draw(4), _draw(4) + 1], _FIRST_ONLY, "LayerNorm"
    ),
    "not static": Style(lambda: NotStatic.apply, [_draw(4)], _NO_VMAP, "NotStatic"),
    "in place inside": Style(lambda: InPlaceInside.apply, [_draw(4, 3)], _NO_VMAP),
    "declared in place": Style(lambda: DeclaredInPlace.apply, [_draw(4)], _NO_VMAP),
    "torch's in place": Style(lambda: functools.partial(F.relu, inplace=True), [_draw(5)]),
    "two outputs": Style(lambda: TwoOutputs.apply, [_draw(4), _draw(4) + 2], _NO_VMAP),
    "undefined gradients": Style(lambda: NothingMaterialised.apply, [_draw(4)], _NO_VMAP),
    "indices beside": Style(lambda: WithIndices.apply, [_draw(3, 4)], _NO_VMAP),
    "a statistic beside": Style(lambda: WithDetachedStatistic.apply, [_draw(4)], _NO_VMAP),
    "integer input": Style(
        lambda: Embedding.apply, [torch.tensor([2, 0, 2]), _draw(3, 2)], _NO_VMAP
    ),
    "classes": Style(
        lambda: CrossEntropy.apply, [_draw(4, 3), torch.tensor([0, 2, 1, 1])], _FIRST_ONLY
    ),
    "a mask of floats": Style(
        lambda: MaskIsNoInput.apply, [_draw(4, 3), _mask], ("first derivative", *_NO_VMAP)
    ),
    "needs_input_grad": Style(lambda: AsksWhatIsNeeded.apply, [_draw(3, 4), _draw(4, 2)], _NO_VMAP),
    "setup_context": Style(lambda: NewStyle.apply, [_draw(4), 3]),
    "loops": Style(
        lambda: LoopConvolution.apply,
        [_draw(2, 2, 4, 5), _draw(3, 2, 3, 3), _draw(3)],
        _NO_VMAP,
        "LoopConvolution",
    ),
    "im2col in numpy": Style(
        lambda: Im2colNumpy.apply, [_draw(2, 2, 4, 5), _draw(3, 2, 3, 3)], _FIRST_ONLY
    ),
    "float32 inside": Style(lambda: FloatInside.apply, [_draw(5)], _NO_VMAP),
    "float32 only": Style(
        lambda: FloatOnly.apply, [_draw(5)], ("dtype and shape", *_NO_VMAP), "FloatOnly"
    ),
    "contiguous only": Style(
        lambda: ContiguousOnly.apply, [_draw(2, 3, 2)], ("dtype and shape", *_NO_VMAP)
    ),
    "complex": Style(
        lambda: ComplexConjugate.apply, [torch.complex(_draw(3), _draw(3) + 1)], _NO_VMAP
    ),
    "saved x_hat": Style(
        lambda: BatchNormNumpyStyle.apply, [_draw(4, 3), _draw(3), _draw(3) + 1], _FIRST_ONLY
    ),
    "a list, a dict": Style(ListOfTensors, [[_draw(3), _draw(2)]], (), "ListOfTensors"),
    "buffers and frozen": Style(Normalised, [_draw(2, 3)], (), "Normalised"),
    "tied weights": Style(Tied, [_draw(2, 3)]),
    "batch norm and dropout": Style(_sequential, [_draw(2, 1, 5, 5)], _NO_VMAP, "Sequential"),
    "a module in a closure": Style(lambda: lambda x: _linear(x).sin(), [_draw(4, 3)]),
    "a tensor in a closure": Style(lambda: lambda x: x * _weight, [_draw(2, 3)]),
    "a method": Style(lambda: _linear.forward, [_draw(4, 3)], (), "Linear"),
    "at a kink": Style(lambda: torch.relu, [torch.tensor([0.0, 1.0, -1.0])], (), "relu"),
    "equals of a maximum": Style(
        lambda: functools.partial(F.max_pool2d, kernel_size=2), [torch.ones(1, 1, 4, 4)]
    ),
    "close to its pole": Style(lambda: torch.log, [torch.tensor([1e-4, 1e-3, 5.0])], (), "log"),
    "large and small": Style(
        lambda: torch.nn.functional.softplus, [torch.tensor([-80.0, 1e-6, 300.0])]
    ),
    "a lambda of a Function": Style(
        lambda: lambda x: NewStyle.apply(x, 2), [_draw(3)], (), "NewStyle"
    ),
    "nothing": Style(lambda: torch.sin, [_draw(0)]),
    "a number": Style(lambda: torch.sin, [torch.tensor(0.3)]),
    "many elements": Style(lambda: torch.tanh, [_draw(60, 60)]),
}
