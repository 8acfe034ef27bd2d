"""Fuse batch normalisations with activation and pooling after them, wherever they are called; split them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from torch import fx, nn

from cnnexp.nn.activation import ReLU
from cnnexp.nn.conv import Conv2d
from cnnexp.nn.deferring import DeferredBatchNormAct2d, OperandBatchNorm2d
from cnnexp.nn.done import Activated
from cnnexp.nn.fuse_calls import called_after, pool_of
from cnnexp.nn.fuse_recompute import recompute_inputs
from cnnexp.nn.heads import put_in_place
from cnnexp.nn.marks import Block
from cnnexp.nn.norm import BatchNorm2d, BatchNormAct2d
from cnnexp.nn.passes import Passes, in_order, is_convolved, is_norm, is_plain, layer_of, places
from cnnexp.nn.pool import MaxPool2d
from cnnexp.nn.steps import Step
from cnnexp.nn.twins import become, plain_class

_ACTIVATIONS: dict[type[nn.Module], str] = {
    ReLU: "relu",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.SiLU: "silu",
}


class _Block(NamedTuple):
    """What a normalisation becomes.

    Attributes:
        activation: The activation that alone reads its output, a layer, or a call of the network's own code;
            None where it is a layer for itself.
        pool: The pooling that alone reads the activation's output.
        again: Whether only convolutions of ours keep the block's output, which can compute it again.
    """

    activation: nn.Module | Step | None
    pool: MaxPool2d | None
    again: bool


Blocks = dict[nn.Module, _Block]


def fuse_norms(
    module: nn.Module, found: Passes | None, recompute: bool = False, functions: bool = False
) -> None:
    """Turn each ``BatchNorm2d`` of ours whose output an activation alone reads into a ``BatchNormAct2d``.

    Which these are ``found`` tells, a trace of the network in training and in evaluation. Where it cannot be
    traced they are those one after the other in an ``nn.Sequential``. An activation that is called in one
    place is replaced by an identity, so that all names, indices and state-dict keys stay; a ``ReLU`` of
    several places stays, and does nothing where the normalisation did. So is a max-pooling that alone reads
    such an activation of one place, where all three follow each other in an ``nn.Sequential``, or, with
    ``functions``, anywhere; not without a trace. With ``functions``, for one as in ``F.relu(self.bn(x))``,
    the normalisation waits (``cnnexp.nn.deferring``). Layers with hooks are left alone, as a hook expects
    each layer's own output.

    With ``recompute`` those blocks recompute whose output no other layer keeps than convolutions of ours, as
    far as the trace tells; and normalisations that such convolutions read without an activation become
    blocks as well. So do sums of residual blocks, and the normalisations before them (``fuse_recompute``);
    with ``functions`` also those of ``F.relu(self.bn(x) + x)`` (``cnnexp.nn.awaited_sums``).
    """
    if not any(map(is_norm, module.modules())):
        return
    graphs = None if found is None else [_calls_in(module, nodes) for nodes in found]
    operands = recompute_inputs(module, found, functions) if recompute and found else {}
    where = places(module)
    rows = None if functions else set(_rows(module, where))
    blocks = _in_sequences(module, where) if graphs is None else _found(graphs, operands, rows)
    for norm, (activation, pool, again) in blocks.items():
        again = recompute and again
        if activation is None:
            if again:
                kind = OperandBatchNorm2d if operands.get(norm) else BatchNormAct2d
                _make(norm, kind, activation="none", recompute=True, is_operand=norm in operands)
        elif isinstance(activation, Step):
            if not functions:
                continue
            name, steps = activation.activation, (activation,)
            _make(norm, DeferredBatchNormAct2d, activation=name, steps=steps, recompute=again)
        else:
            name, inplace = _ACTIVATIONS[type(activation)], activation.inplace
            alone = graphs is None or _calls(graphs, activation) == 1
            block = Block(shared=not alone)
            attributes: dict[str, Any] = {"inplace": inplace, "of_block": block, "recompute": again}
            attributes["marks"] = True
            if pool is not None:
                attributes["pool"] = pool_of(pool)
            head = _make(norm, BatchNormAct2d, activation=name, **attributes)
            if alone:
                computed = [layer for layer in (activation, pool) if layer is not None]
                parts = [layer for layer in computed for _ in where[layer]]
                stand = [place for layer in computed for place in where[layer]]
                put_in_place(head, block, [where[norm][0], *stand], parts, Activated)


def waiting_norms(module: nn.Module, found: Passes) -> list[nn.Module]:
    """The normalisations that :func:`fuse_norms` lets wait with ``functions``."""
    blocks = _found([_calls_in(module, nodes) for nodes in found], (), set())
    return [norm for norm, block in blocks.items() if isinstance(block.activation, Step)]


def _make(norm: nn.Module, kind: type[BatchNormAct2d], **attributes: Any) -> BatchNormAct2d:
    """Turn ``norm`` into a block of ``kind`` with ``attributes``."""
    assert isinstance(norm, BatchNorm2d)
    become(norm, kind)
    assert isinstance(norm, BatchNormAct2d)
    vars(norm).update(attributes, fused=True)
    return norm


def split_norms(module: nn.Module) -> None:
    """Undo :func:`fuse_norms`; a ``BatchNormAct2d`` that was constructed as such stays."""
    for layer in module.modules():
        if isinstance(layer, BatchNormAct2d) and layer.fused:
            layer.part_again()


class _Call(NamedTuple):
    """A call of a layer in a forward pass, and what happens to its output.

    Attributes:
        layer: The layer.
        reader: The layer that alone reads what it returns, or the activation that a function is.
        convolved: Whether only convolutions of ours keep what it returns.
        convolved_after: Whether only these keep what the reader returns.
    """

    layer: nn.Module
    reader: nn.Module | Step | None
    convolved: bool
    convolved_after: bool


def _calls_in(module: nn.Module, nodes: Sequence[fx.Node]) -> list[_Call]:
    return [_call(module, nodes, i) for i, node in enumerate(nodes) if node.op == "call_module"]


def _call(module: nn.Module, nodes: Sequence[fx.Node], place: int) -> _Call:
    node = nodes[place]
    reader = _reader(module, node) or _function(module, nodes, place)
    after = reader is not None and is_convolved(module, next(iter(node.users)))
    return _Call(layer_of(module, node), reader, is_convolved(module, node), after)


def _reader(module: nn.Module, node: fx.Node) -> nn.Module | None:
    (reader, *others) = [*node.users] or [node]
    if others or reader.op != "call_module" or reader.args != (node,) or reader.kwargs:
        return None
    return layer_of(module, reader)


def _function(module: nn.Module, nodes: Sequence[fx.Node], place: int) -> Step | None:
    """The activation by a function that directly follows ``nodes[place]``, of those with kernels."""
    called = [step for step, layer in called_after(module, nodes, place) if layer is None][:1]
    return called[0] if called and called[0].activation in _ACTIVATIONS.values() else None


def _found(
    graphs: list[list[_Call]], operands: Collection[nn.Module], rows: set[_Row] | None
) -> Blocks:
    """The blocks; with ``rows``, those with a pooling are of these alone."""
    calls: dict[nn.Module, list[_Call]] = {}
    for call in itertools.chain(*graphs):
        calls.setdefault(call.layer, []).append(call)
    blocks: Blocks = {}
    for norm, each in calls.items():
        if not is_norm(norm) or _calls(graphs, norm) != 1:
            continue
        activation, *others = {call.reader for call in each}
        again = all(call.convolved_after for call in each)
        if not others and isinstance(activation, Step):
            blocks[norm] = _Block(activation, None, again)
        elif not others and isinstance(activation, nn.Module) and _is_activation(activation):
            pool = _pool(graphs, calls, activation)
            if rows is not None and (norm, activation, pool) not in rows:
                pool = None
            if pool is not None:
                again = all(call.convolved for call in calls[pool])
            if type(activation) is ReLU or _calls(graphs, activation) == 1:
                blocks[norm] = _Block(activation, pool, again)
        elif norm in operands or all(call.convolved for call in each):
            blocks[norm] = _Block(None, None, True)
    return blocks


def _pool(
    graphs: list[list[_Call]], calls: dict[nn.Module, list[_Call]], activation: nn.Module
) -> MaxPool2d | None:
    """The max-pooling that alone reads what ``activation`` gives; each of them is called in one place."""
    pool, *others = {call.reader for call in calls[activation]}
    if others or not isinstance(pool, MaxPool2d) or not _is_pool(pool):
        return None
    return pool if _calls(graphs, activation) == _calls(graphs, pool) == 1 else None


def _calls(graphs: list[list[_Call]], layer: nn.Module) -> int:
    """How often a pass calls ``layer``, in training or in evaluation."""
    return max(sum(call.layer is layer for call in calls) for calls in graphs)


def _in_sequences(module: nn.Module, where: _Places) -> Blocks:
    """Where nothing tells who calls the layers: without poolings, behind which others may look."""
    found: Blocks = {}
    for norm, activation, reader in _sequences(module):
        alone = len(where[norm]) == len(where[activation]) == 1
        if alone and is_norm(norm) and _is_activation(activation):
            again = reader is not None and plain_class(reader) is Conv2d
            found[norm] = _Block(activation, None, again)
    return found


_Places = dict[nn.Module, list[tuple[nn.Module, str]]]
_Row = tuple[nn.Module, nn.Module, nn.Module | None]


def _rows(module: nn.Module, where: _Places) -> Iterator[_Row]:
    """Three layers one after the other in a plain sequence, which is the only place of each."""
    for layers in _sequences(module):
        pooled = isinstance(layers[2], MaxPool2d)
        if pooled and all(len(where[each]) == 1 for each in layers if each is not None):
            yield layers


def _sequences(module: nn.Module) -> Iterator[_Row]:
    """Each two layers one after the other in a plain sequence, and the next one."""
    for sequence in module.modules():
        if isinstance(sequence, nn.Sequential) and is_plain_sequence(sequence):
            layers = [layer for _, layer in in_order(sequence)]
            yield from zip(layers, layers[1:], [*layers[2:], None], strict=False)


def is_plain_sequence(sequence: nn.Sequential) -> bool:
    """Whether ``sequence`` calls its layers one after the other, and nobody changed that."""
    return type(sequence).forward is nn.Sequential.forward and "forward" not in vars(sequence)


def _is_pool(layer: MaxPool2d) -> bool:
    return type(layer) is MaxPool2d and is_plain(layer) and not layer.return_indices


def _is_activation(layer: nn.Module) -> bool:
    return type(layer) in _ACTIVATIONS and is_plain(layer)
