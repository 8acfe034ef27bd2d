"""Find convolutions whose activation and pooling a network calls itself: as functions, or as layers anywhere.

In a plain ``nn.Sequential`` the order of the layers says what follows a convolution
(``cnnexp.nn.fuse``). Everywhere else a trace of the network by ``torch.fx`` does. Its convolution becomes a
block that waits for the calls that the trace saw (``cnnexp.nn.deferring``). The order max-pooling → ReLU
gives the same block, as both take the greatest of a window: ReLU(max z) = max ReLU(z), and a window passes
its gradient to its greatest element if that is positive, in either order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from torch import fx, nn

from cnnexp import ops
from cnnexp.kernels.cpu.narrow import FEW
from cnnexp.nn.activation import ReLU, Tanh
from cnnexp.nn.conv import Conv2d
from cnnexp.nn.deferring import DeferredConvReLUPool, DeferredConvTanhPool, Deferring
from cnnexp.nn.layer import Layer
from cnnexp.nn.passes import convolution, function_step, is_plain, layer_of
from cnnexp.nn.pool import AvgPool2d, MaxPool2d
from cnnexp.nn.steps import RELU, TANH, Step
from cnnexp.nn.twins import become

_MOST = 2  # steps of a block
_Called = tuple[Step, Layer | None]  # a step, and the layer of ours that it is


def fuse_calls(module: nn.Module, passes: Sequence[Sequence[fx.Node]]) -> None:
    """Turn each convolution of ours that ``passes`` show before an activation into a block that waits for it.

    Which calls make a block ``cnnexp.nn.fuse_blocks`` says. They must directly follow the convolution, in
    training and in evaluation, wherever it is called, and nothing else may read what is in between.
    """
    for conv, calls in waiting(module, passes).items():
        _wait(conv, calls)


def waiting(module: nn.Module, passes: Sequence[Sequence[fx.Node]]) -> dict[Conv2d, list[_Called]]:
    """The convolutions of :func:`fuse_calls`, and the calls after each that its block includes."""
    found: dict[Conv2d, list[list[_Called]]] = {}
    for nodes in passes:
        for place, node in enumerate(nodes):
            conv = convolution(module, node)
            if conv is not None and is_plain(conv):
                found.setdefault(conv, []).append(_block(conv, called_after(module, nodes, place)))
    return {
        conv: calls
        for conv, (calls, *others) in found.items()
        if calls and all(other == calls for other in others)
    }


def undo_calls(module: nn.Module) -> None:
    """Undo :func:`fuse_calls`."""
    for layer in module.modules():
        if isinstance(layer, Layer):
            vars(layer).pop("step", None)
        if isinstance(layer, (DeferredConvReLUPool, DeferredConvTanhPool)):
            for name in ("pool", "steps"):
                vars(layer).pop(name, None)
            become(layer, Conv2d)


def called_after(module: nn.Module, nodes: Sequence[fx.Node], place: int) -> list[_Called]:
    """The steps that directly follow ``nodes[place]``, each the only reader of the one before."""
    called: list[_Called] = []
    for node, reader in zip(nodes[place:], nodes[place + 1 : place + 1 + _MOST], strict=False):
        step = _step_at(module, reader) if [*node.users] == [reader] else None
        if step is None:
            break
        called.append(step)
    return called


def is_narrow(conv: nn.Module) -> bool:
    """Whether the kernels of ``conv_tanh_pool`` take such a convolution, as far as the layer tells."""
    assert isinstance(conv, Conv2d)
    few = max(conv.in_channels, conv.out_channels) <= FEW
    return few and conv.groups == 1 and tuple(conv.stride) == (1, 1)


def pool_of(layer: nn.Module) -> ops.Pool:
    """The pooling of ``layer``, whose attributes have the names of those of :class:`cnnexp.ops.Pool`."""
    names = [field.name for field in fields(ops.Pool) if hasattr(layer, field.name)]
    kind = "max" if isinstance(layer, MaxPool2d) else "avg"
    return ops.Pool(kind, **{name: getattr(layer, name) for name in names})


def _block(conv: Conv2d, called: list[_Called]) -> list[_Called]:
    """The part of ``called`` that makes a block with ``conv``; nothing where none does."""
    steps = [step for step, _ in called]
    pools = [step.pool for step in steps if step.pool is not None]
    if len(pools) == 1 and RELU in steps and (steps[0] == RELU or pools[0].kind == "max"):
        return called
    if steps[:1] == [TANH] and is_narrow(conv):
        return called if pools and pools[0].kind == "avg" else called[:1]
    return []


def _wait(conv: Conv2d, called: list[_Called]) -> None:
    steps = tuple(step for step, _ in called)
    kind: type[Deferring] = DeferredConvReLUPool if RELU in steps else DeferredConvTanhPool
    become(conv, kind)
    pool = next((step.pool for step in steps if step.pool is not None), None)
    vars(conv).update(pool=pool, steps=steps)
    for step, layer in called:
        if layer is not None:
            layer.step = step


def _step_at(module: nn.Module, node: fx.Node) -> _Called | None:
    if node.op == "call_module":
        layer = layer_of(module, node)
        step = _step_of_layer(layer) if len(node.args) == 1 and not node.kwargs else None
        return None if step is None or not isinstance(layer, Layer) else (step, layer)
    step = function_step(node)
    return None if step is None else (step, None)


def _step_of_layer(layer: nn.Module) -> Step | None:
    """The step that ``layer`` is, if it is one of ours at whose outputs nobody looks."""
    if not is_plain(layer):
        return None
    if type(layer) is ReLU:
        return RELU
    if type(layer) is Tanh:
        return TANH
    if type(layer) is AvgPool2d or (type(layer) is MaxPool2d and not layer.return_indices):
        return Step(pool=pool_of(layer))
    return None
