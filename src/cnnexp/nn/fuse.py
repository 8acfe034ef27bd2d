"""Fuse convolution, activation and pooling of a network into one layer, and split it again."""

from __future__ import annotations

from dataclasses import fields

from torch import nn

from cnnexp import ops
from cnnexp.kernels.cpu.narrow import FEW
from cnnexp.nn.activation import ReLU, Tanh
from cnnexp.nn.conv import Conv2d, ConvReLUPool, ConvTanhPool
from cnnexp.nn.done import Done
from cnnexp.nn.fuse_norms import fuse_norms, is_plain_sequence, split_norms
from cnnexp.nn.fuse_recompute import forget_inputs, shrink_pools
from cnnexp.nn.pool import AvgPool2d, MaxPool2d
from cnnexp.nn.twins import become, plain_class
from cnnexp.ops.torch_internals import has_hooks


def fuse_blocks(module: nn.Module, recompute: bool = False) -> None:
    """Turn each run of ``Conv2d``, activation and pooling within an ``nn.Sequential`` into a block.

    With ``ReLU`` and a pooling after it, the convolution becomes a ``ConvReLUPool``. With ``Tanh``, and with
    or without an average-pooling, it becomes a ``ConvTanhPool``, if it has few channels, as
    ``cnnexp.ops.conv_tanh_pool`` has kernels for. Activation and pooling are replaced by an identity, so that
    all names, indices and state-dict keys stay. These are not fused: layers with hooks, as a hook
    expects each layer's own output; a convolution that is used in several places; and a sequence with a
    ``forward`` of its own, which may use the outputs in between.

    Batch normalisations and the activations that alone read them become blocks, too, wherever the
    network calls them: see ``cnnexp.nn.fuse_norms.fuse_norms``. With ``recompute`` layers of ours keep less
    for the backward: ``cnnexp.nn.fuse_recompute`` says what.
    """
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential) or not is_plain_sequence(sequence):
            continue
        children = [*sequence.named_children(), ("", None)]
        for (_, conv), (name, act), (pool_name, pool) in zip(
            children, children[1:], [*children[2:], ("", None)], strict=False
        ):
            kind = _block_of(conv, act, pool)
            if kind is None or _places(module, conv) != 1:  # pyright: ignore[reportArgumentType]
                continue
            assert isinstance(conv, Conv2d)
            assert act is not None
            become(conv, kind)
            taken = pool if kind is ConvReLUPool or _is_average(pool) else None
            conv.pool = None if taken is None else _pool(taken)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
            if isinstance(act, ReLU):
                conv.inplace = act.inplace  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
            setattr(sequence, name, Done(act))
            if taken is not None:
                setattr(sequence, pool_name, Done(taken))
    fuse_norms(module, recompute)
    if recompute:
        shrink_pools(module)


def split_blocks(module: nn.Module) -> None:
    """Undo :func:`fuse_blocks`; a block that was constructed as such stays."""
    forget_inputs(module)
    split_norms(module)
    for sequence in module.modules():
        if isinstance(sequence, nn.Sequential):
            last: nn.Module | None = None
            for name, layer in list(sequence.named_children()):
                if isinstance(layer, Done):
                    setattr(sequence, name, layer.part)
                    if isinstance(last, (ConvReLUPool, ConvTanhPool)):
                        vars(last).pop("pool", None)
                        vars(last).pop("inplace", None)
                        become(last, Conv2d)
                else:
                    last = layer


def _block_of(
    conv: nn.Module | None, activation: nn.Module | None, pool: nn.Module | None
) -> type[ConvReLUPool | ConvTanhPool] | None:
    """What a convolution becomes together with the layers after it; None where they are no block."""
    if conv is None or plain_class(conv) is not Conv2d or not (_is_plain(conv) and activation):
        return None
    if not _is_plain(activation):
        return None
    if type(activation) is Tanh:
        return ConvTanhPool if _is_narrow(conv) else None
    if type(activation) is not ReLU or pool is None or not _is_plain(pool):
        return None
    is_maximum = type(pool) is MaxPool2d and not pool.return_indices
    return ConvReLUPool if is_maximum or _is_average(pool) else None


def _is_plain(layer: nn.Module) -> bool:
    return not has_hooks(layer) and "forward" not in vars(layer)


def _is_average(pool: nn.Module | None) -> bool:
    return type(pool) is AvgPool2d and _is_plain(pool)


def _is_narrow(conv: nn.Module) -> bool:
    """Whether the kernels of ``conv_tanh_pool`` take such a convolution, as far as the layer tells."""
    assert isinstance(conv, Conv2d)
    few = max(conv.in_channels, conv.out_channels) <= FEW
    return few and conv.groups == 1 and tuple(conv.stride) == (1, 1)


def _places(module: nn.Module, layer: nn.Module) -> int:
    """The number of places in ``module``, names of children counted one by one, that hold ``layer``."""
    return sum(
        child is layer and child is not parent and "." not in name
        for parent in module.modules()
        for name, child in parent.named_modules(remove_duplicate=False)
    )


def _pool(layer: nn.Module) -> ops.Pool:
    """The pooling of ``layer``, whose attributes have the names of those of :class:`cnnexp.ops.Pool`."""
    names = [field.name for field in fields(ops.Pool) if hasattr(layer, field.name)]
    kind = "max" if isinstance(layer, MaxPool2d) else "avg"
    return ops.Pool(kind, **{name: getattr(layer, name) for name in names})
