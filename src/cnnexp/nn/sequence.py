"""``nn.Sequential`` with runs of linear layers and activations, each of which is computed in one op.

The layers stay what and where they are, so that a slice, a layer that somebody puts in another's place,
hooks, and whoever calls a layer by itself, get what each computes: what follows what is looked up at each
call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnnexp.kernels.cpu.linear_act import MOST_LAYERS
from cnnexp.nn.activation import ReLU, Tanh
from cnnexp.nn.deferred import computed
from cnnexp.nn.layer import Layer
from cnnexp.nn.linear import Linear, LinearAct
from cnnexp.nn.passes import in_order, is_plain
from cnnexp.nn.twins import plain_class
from cnnexp.ops.registry import NATIVE
from cnnexp.ops.torch_internals import has_hooks_of_all

__all__ = ["FusedSequential", "Run", "runs_of"]

_ACTIVATIONS: dict[type[nn.Module], str] = {ReLU: "relu", Tanh: "tanh"}
_LINEAR = (Linear, LinearAct)


class Run(NamedTuple):
    """Layers one after the other that one op can compute: linear ones, each but the last with an activation.

    Attributes:
        layers: All of them; the first is linear.
        linears: The linear ones.
        activations: What follows each of these, by name, ``"none"`` for no activation.
    """

    layers: tuple[Layer, ...]
    linears: tuple[Linear, ...]
    activations: tuple[str, ...]


Fits = Callable[[Layer, Layer], bool]


def runs_of(
    layers: Sequence[nn.Module], fits: Fits = lambda _first, _layer: True
) -> Iterator[Run | nn.Module]:
    """``layers``, which are called one after the other, with each run of them as one.

    A layer takes part in the run of a first one that it ``fits``.
    """
    place = 0
    while place < len(layers):
        run = _run_at(layers, place, fits)
        yield layers[place] if run is None else run
        place += 1 if run is None else len(run.layers)


def _run_at(layers: Sequence[nn.Module], place: int, fits: Fits) -> Run | None:
    """The run that begins at ``place``; None without an activation."""
    end, linears, activations = place, list[Linear](), list[str]()
    while end < len(layers) and len(linears) < MOST_LAYERS and "none" not in activations:
        layer = layers[end]
        if plain_class(layer) not in _LINEAR:
            break
        assert isinstance(layer, Linear)
        if not fits(linears[0] if linears else layer, layer):
            break
        linears.append(layer)
        after = layers[end + 1] if end + 1 < len(layers) else None
        name = "none" if after is None else _ACTIVATIONS.get(type(after), "none")
        if name != "none" and not fits(linears[0], after):  # pyright: ignore[reportArgumentType]
            name = "none"
        activations.append(name)
        end += 1 if name == "none" else 2
    if all(name == "none" for name in activations):
        return None
    return Run(tuple(layers[place:end]), tuple(linears), tuple(activations))  # pyright: ignore[reportArgumentType]


class FusedSequential(nn.Sequential):
    """``nn.Sequential`` as ``fuse_blocks`` leaves it; a slice of it is an ``nn.Sequential``."""

    looked_up: tuple[Any, list[Run | nn.Module]] | None = (
        None  # for which layers, and what they are
    )

    def __getitem__(self, idx: Any) -> Any:
        """Return the layer at a place, or some layers for a slice."""
        if isinstance(idx, slice):
            return nn.Sequential(OrderedDict(in_order(self)[idx]))  # pyright: ignore[reportArgumentType]
        return super().__getitem__(idx)

    def forward(self, input: Tensor) -> Tensor:
        """Return what the layers give, one after the other."""
        if torch.compiler.is_compiling() or not isinstance(input, Tensor):
            return super().forward(input)
        for step in self.steps():
            if not isinstance(step, Run):
                input = step(input)
            elif is_one(step):
                head = step.linears[0]
                assert isinstance(head, LinearAct)
                input = head.block(computed(input), step.linears, step.activations)
            else:
                for layer in step.layers:
                    input = layer(input)
        return input

    def steps(self) -> list[Run | nn.Module]:
        """The layers, and runs of those whose algorithms agree, looked up anew when something is other."""
        layers = tuple(self)
        now = layers, [(type(layer), vars(layer).get("algorithm")) for layer in layers]
        if self.looked_up is None or self.looked_up[0] != now:
            self.looked_up = now, [*runs_of(layers, _agree)]
        return self.looked_up[1]


def is_one(run: Run) -> bool:
    """Whether the layers of ``run`` are computed as one: nobody looks at what is in between."""
    return all(map(is_plain, run.layers)) and not has_hooks_of_all()


def _agree(first: Layer, layer: Layer) -> bool:
    """Whether ``first`` begins a run of ours, and ``layer`` is computed as that is."""
    if plain_class(first) is not LinearAct or first.algorithm == NATIVE:
        return False
    return layer.algorithm == layer.way_by(first.algorithm)
