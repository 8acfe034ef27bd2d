"""Fuse runs of linear layers and activations in an ``nn.Sequential``; split them."""

from __future__ import annotations

from torch import nn

from cnnexp.kernels.cpu.linear_act import FEWEST_NUMBERS
from cnnexp.nn.fuse_norms import is_plain_sequence
from cnnexp.nn.layer import Layer
from cnnexp.nn.linear import Linear, LinearAct
from cnnexp.nn.passes import is_plain, places
from cnnexp.nn.sequence import FusedSequential, Run, is_one, runs_of
from cnnexp.nn.twins import become, plain_class
from cnnexp.ops.registry import AUTO

__all__ = ["fuse_linears", "in_runs", "members_of", "runs_in", "settle_runs", "split_linears"]


def fuse_linears(module: nn.Module) -> None:
    """Let each plain ``nn.Sequential`` compute its runs of ``Linear`` of ours and activations as one op each.

    A run is up to three linear layers, each with a ReLU or tanh behind it, the last maybe without. The first
    becomes a ``LinearAct``, which has the choice of an algorithm for all, and the sequence a
    ``FusedSequential``. Layers that stand in several places, or have hooks, are left alone, and so are those
    of fewer numbers than there are kernels for.
    """
    where = places(module)
    for sequence in [*module.modules()]:
        if type(sequence) is not nn.Sequential or not is_plain_sequence(sequence):
            continue
        runs = [run for run in runs_of([*sequence]) if isinstance(run, Run)]
        runs = [run for run in runs if _may_be_one(run, where)]
        for run in runs:
            become(run.linears[0], LinearAct)
        if runs:
            become(sequence, FusedSequential)


def runs_in(module: nn.Module) -> list[Run]:
    """The runs of ``module`` that are computed as one, as its layers are now."""
    return [
        step
        for sequence in module.modules()
        if isinstance(sequence, FusedSequential)
        for step in sequence.steps()
        if isinstance(step, Run) and is_one(step)
    ]


def in_runs(module: nn.Module) -> set[nn.Module]:
    """The layers of ``module`` that are computed with the first of their run, and are not that."""
    return {layer for run in runs_in(module) for layer in run.layers[1:]}


def members_of(module: nn.Module) -> dict[nn.Module, LinearAct]:
    """The layers of runs of ``module`` that are not the first, and that first one, whoever looks at them."""
    return {
        layer: run.linears[0]
        for sequence in module.modules()
        if isinstance(sequence, FusedSequential)
        for run in runs_of([*sequence], lambda first, _layer: plain_class(first) is LinearAct)
        if isinstance(run, Run) and isinstance(run.linears[0], LinearAct)
        for layer in run.layers[1:]
    }


def settle_runs(module: nn.Module) -> None:
    """Let the layers of a run that wait for a choice take that of the first."""
    for layer, first in members_of(module).items():
        if isinstance(layer, Layer) and layer.algorithm == AUTO:
            layer.algorithm = layer.way_by(first.algorithm)


def split_linears(module: nn.Module) -> None:
    """Undo :func:`fuse_linears`."""
    for layer in module.modules():
        if isinstance(layer, FusedSequential):
            vars(layer).pop("looked_up", None)
            become(layer, nn.Sequential)
        elif plain_class(layer) is LinearAct:
            become(layer, Linear)


def _may_be_one(run: Run, where: dict[nn.Module, list[tuple[nn.Module, str]]]) -> bool:
    return (
        all(len(where[layer]) == 1 and is_plain(layer) for layer in run.layers)
        and all(plain_class(layer) is Linear for layer in run.linears)
        and all(layer.in_features >= FEWEST_NUMBERS for layer in run.linears)
    )
