"""Fuse convolution, ReLU and pooling of a network into one layer, and split it again."""

from __future__ import annotations

from dataclasses import fields

from torch import nn

from cnnexp import ops
from cnnexp.nn.activation import ReLU
from cnnexp.nn.conv import Conv2d, ConvReLUPool
from cnnexp.nn.done import Done
from cnnexp.nn.fuse_norms import fuse_norms, is_plain_sequence, split_norms
from cnnexp.nn.pool import AvgPool2d, MaxPool2d
from cnnexp.nn.twins import become, plain_class
from cnnexp.ops.torch_internals import has_hooks


def fuse_blocks(module: nn.Module, recompute: bool = False) -> None:
    """Turn each run of ``Conv2d``, ``ReLU`` and pooling within an ``nn.Sequential`` into a block.

    The convolution becomes a ``ConvReLUPool``; ReLU and pooling are replaced by an identity, so that
    all names, indices and state-dict keys stay. These are not fused: layers with hooks, as a hook
    expects each layer's own output; a convolution that is used in several places; and a sequence with a
    ``forward`` of its own, which may use the outputs in between.

    Batch normalisations and the activations that alone read them become blocks, too, wherever the
    network calls them: see ``cnnexp.nn.fuse_norms.fuse_norms``, also for ``recompute``.
    """
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential) or not is_plain_sequence(sequence):
            continue
        children = list(sequence.named_children())
        for (_, conv), (relu_name, relu), (pool_name, pool) in zip(
            children, children[1:], children[2:], strict=False
        ):
            if _is_block(conv, relu, pool) and _places(module, conv) == 1:
                assert isinstance(conv, Conv2d)
                become(conv, ConvReLUPool)
                conv.pool, conv.inplace = _pool(pool), relu.inplace  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
                setattr(sequence, relu_name, Done(relu))
                setattr(sequence, pool_name, Done(pool))
    fuse_norms(module, recompute)


def split_blocks(module: nn.Module) -> None:
    """Undo :func:`fuse_blocks`; a ``ConvReLUPool`` that was constructed as such stays."""
    split_norms(module)
    for sequence in module.modules():
        if isinstance(sequence, nn.Sequential):
            last: nn.Module | None = None
            for name, layer in list(sequence.named_children()):
                if isinstance(layer, Done):
                    setattr(sequence, name, layer.part)
                    if isinstance(last, ConvReLUPool):
                        del last.pool
                        vars(last).pop("inplace", None)
                        become(last, Conv2d)
                else:
                    last = layer


def _is_block(conv: nn.Module, relu: nn.Module, pool: nn.Module) -> bool:
    if plain_class(conv) is not Conv2d or type(relu) is not ReLU:
        return False
    if type(pool) is not AvgPool2d and not (type(pool) is MaxPool2d and not pool.return_indices):
        return False
    layers = (conv, relu, pool)
    return not any(has_hooks(layer) or "forward" in vars(layer) for layer in layers)


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
