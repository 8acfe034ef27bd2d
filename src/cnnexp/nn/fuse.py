"""Fuse convolution, ReLU and pooling of a network into one layer, and split it again."""

from __future__ import annotations

from dataclasses import fields

from torch import nn

from cnnexp import ops
from cnnexp.nn.activation import ReLU
from cnnexp.nn.conv import Conv2d, ConvReLUPool
from cnnexp.nn.pool import AvgPool2d, MaxPool2d
from cnnexp.nn.twins import become, plain_class
from cnnexp.ops.torch_internals import has_hooks


class _Done(nn.Identity):
    """An identity in place of a ReLU or pooling that the convolution before it now computes."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.__dict__["part"] = part  # kept out of the submodules, as it is not run

    def extra_repr(self) -> str:
        return f"done by the layer before: {type(self.part).__name__}"


def is_done(layer: nn.Module) -> bool:
    """Whether ``layer`` is an identity in place of a part of a fused block."""
    return isinstance(layer, _Done)


def fuse_blocks(module: nn.Module) -> None:
    """Turn each run of ``Conv2d``, ``ReLU`` and pooling within an ``nn.Sequential`` into a block.

    The convolution becomes a ``ConvReLUPool``; ReLU and pooling are replaced by an identity, so that
    all names, indices and state-dict keys stay. These are not fused: layers with hooks, as a hook
    expects each layer's own output; a convolution that is used in several places; and a sequence with a
    ``forward`` of its own, which may use the outputs in between.
    """
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential) or not _plain_sequence(sequence):
            continue
        children = list(sequence.named_children())
        for (_, conv), (relu_name, relu), (pool_name, pool) in zip(
            children, children[1:], children[2:], strict=False
        ):
            if _is_block(conv, relu, pool) and _places(module, conv) == 1:
                assert isinstance(conv, Conv2d)
                become(conv, ConvReLUPool)
                conv.pool, conv.inplace = _pool(pool), relu.inplace  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
                setattr(sequence, relu_name, _Done(relu))
                setattr(sequence, pool_name, _Done(pool))


def split_blocks(module: nn.Module) -> None:
    """Undo :func:`fuse_blocks`; a ``ConvReLUPool`` that was constructed as such stays."""
    for sequence in module.modules():
        if isinstance(sequence, nn.Sequential):
            last: nn.Module | None = None
            for name, layer in list(sequence.named_children()):
                if isinstance(layer, _Done):
                    setattr(sequence, name, layer.part)
                    if isinstance(last, ConvReLUPool):
                        del last.pool
                        vars(last).pop("inplace", None)
                        become(last, Conv2d)
                else:
                    last = layer


def _plain_sequence(sequence: nn.Sequential) -> bool:
    return type(sequence).forward is nn.Sequential.forward and "forward" not in vars(sequence)


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
