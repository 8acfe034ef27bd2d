"""Fuse convolution, activation and pooling of a network into one layer, and split it again."""

from __future__ import annotations

import logging

from torch import nn

from cnnexp.nn.activation import ReLU, Tanh
from cnnexp.nn.conv import Conv2d, ConvReLUPool, ConvTanhPool
from cnnexp.nn.done import Done
from cnnexp.nn.fuse_calls import fuse_calls, is_narrow, pool_of, undo_calls, waiting
from cnnexp.nn.fuse_linears import fuse_linears, split_linears
from cnnexp.nn.fuse_norms import fuse_norms, is_plain_sequence, split_norms, waiting_norms
from cnnexp.nn.fuse_recompute import forget_inputs, keep_less
from cnnexp.nn.heads import put_in_place, way_of
from cnnexp.nn.layer import Layer
from cnnexp.nn.marks import Block
from cnnexp.nn.passes import in_order, is_norm, is_plain, passes, places
from cnnexp.nn.pool import AvgPool2d, MaxPool2d
from cnnexp.nn.twins import become, plain_class

log = logging.getLogger(__name__)


def fuse_blocks(module: nn.Module, recompute: bool = False, functions: bool = False) -> None:
    """Turn each run of ``Conv2d``, activation and pooling of a network into a block.

    With ReLU and a pooling after it, the convolution becomes a ``ConvReLUPool``. With tanh, and with
    or without an average-pooling, it becomes a ``ConvTanhPool``, if it has few channels, as
    ``cnnexp.ops.conv_tanh_pool`` has kernels for. Layers with hooks are not fused, as a hook expects each
    layer's own output.

    Where the layers follow each other in a plain ``nn.Sequential``, activation and pooling are replaced by an
    identity, so that all names, indices and state-dict keys stay. Elsewhere, for example in
    ``self.pool(F.relu(self.conv(x)))``, with ``functions`` a trace of the network by ``torch.fx`` finds them,
    and only the convolution is changed: see ``cnnexp.nn.fuse_calls``. There ``torch.compile``,
    ``torch.export`` and ``torch.func`` get the convolution alone, as torch computes it.

    Batch normalisations and the activations that alone read them become blocks, too, wherever the network
    calls them, with a max-pooling after them in an ``nn.Sequential``: see
    ``cnnexp.nn.fuse_norms.fuse_norms``. Linear layers with a ReLU or tanh behind them, up to three one after
    the other in an ``nn.Sequential``, are computed in one op: see ``cnnexp.nn.fuse_linears``. With
    ``recompute`` layers of ours keep less for the backward instead: ``cnnexp.nn.fuse_recompute`` says what.
    """
    of_layers = places(module)
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential) or not is_plain_sequence(sequence):
            continue
        children = [*in_order(sequence), ("", None)]
        for (conv_name, conv), (name, act), (pool_name, pool) in zip(
            children, children[1:], [*children[2:], ("", None)], strict=False
        ):
            kind = _block_of(conv, act, pool)
            if kind is None or conv is None or len(of_layers[conv]) != 1:
                continue
            assert act is not None
            become(conv, kind)
            assert isinstance(conv, (ConvReLUPool, ConvTanhPool))
            taken = pool if kind is ConvReLUPool or _is_average(pool) else None
            vars(conv)["pool"] = None if taken is None else pool_of(taken)
            if isinstance(act, ReLU):
                vars(conv)["inplace"] = act.inplace
            parts = [act] if taken is None else [act, taken]
            stand = [(sequence, each) for each in (conv_name, name, pool_name)]
            put_in_place(conv, Block(shared=False), stand[: 1 + len(parts)], parts)
    may_be = _may_be_fused if functions else is_norm
    traceable = any(map(may_be, module.modules()))
    found = passes(module) if traceable else None
    if traceable and found is None and (functions or recompute):
        asked = " and ".join(["functions=True"] * functions + ["recompute=True"] * recompute)
        log.warning(
            "torch.fx cannot trace the network's forward, so that %s finds nothing outside of an "
            "nn.Sequential",
            asked,
        )
    if found is not None and functions:
        fuse_calls(module, found)
    fuse_norms(module, found, recompute, functions)
    if recompute:
        keep_less(module)
    else:
        fuse_linears(module)


def fusable_functions(module: nn.Module) -> int:
    """The number of blocks that ``functions=True`` would add, those with a convolution and the others.

    Of a network of ours by ``fused`` or ``auto``, without it; 0 where ``torch.fx`` cannot trace the network.
    """
    found = passes(module) if any(map(_may_be_fused, module.modules())) else None
    return 0 if found is None else len(waiting(module, found)) + len(waiting_norms(module, found))


def split_blocks(module: nn.Module) -> None:
    """Undo :func:`fuse_blocks`; a block that was constructed as such stays."""
    split_linears(module)
    forget_inputs(module)
    for parent in module.modules():
        for name, layer in in_order(parent):
            if isinstance(layer, Done):
                setattr(parent, name, layer.part_again())
    split_norms(module)
    undo_calls(module)
    for layer in module.modules():
        if isinstance(layer, (ConvReLUPool, ConvTanhPool)) and layer.of_block is not None:
            layer.part_again()
    for layer in module.modules():
        if isinstance(layer, Layer):
            layer.algorithm = way_of(layer)


def _block_of(
    conv: nn.Module | None, activation: nn.Module | None, pool: nn.Module | None
) -> type[ConvReLUPool | ConvTanhPool] | None:
    """What a convolution becomes together with the layers after it; None where they are no block."""
    if conv is None or plain_class(conv) is not Conv2d or not (is_plain(conv) and activation):
        return None
    if not is_plain(activation):
        return None
    if type(activation) is Tanh:
        return ConvTanhPool if is_narrow(conv) else None
    if type(activation) is not ReLU or pool is None or not is_plain(pool):
        return None
    is_maximum = type(pool) is MaxPool2d and not pool.return_indices
    return ConvReLUPool if is_maximum or _is_average(pool) else None


def _may_be_fused(layer: nn.Module) -> bool:
    return plain_class(layer) is Conv2d or is_norm(layer)


def _is_average(pool: nn.Module | None) -> bool:
    return type(pool) is AvgPool2d and is_plain(pool)
