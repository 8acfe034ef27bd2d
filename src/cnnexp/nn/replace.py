"""Convert the layers of any network to ours."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from cnnexp import ops
from cnnexp.nn.conversion import conversion
from cnnexp.nn.done import Done
from cnnexp.nn.fuse import fuse_blocks, split_blocks
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import REPLACEMENTS, become, is_replaced, plain_class, twin_of

Module = TypeVar("Module", bound=nn.Module)


def replace_layers(
    module: Module,
    algorithm: str = "direct",
    *,
    recompute: bool = False,
    functions: bool = False,
    quiet: bool = False,
) -> Module:
    """Make every layer of ``module`` that has a twin in ``cnnexp.nn`` compute with ``algorithm``.

    The network is changed in place: parameters, buffers, hooks, names, parametrizations and layers that
    are used twice stay what they are; a layer only changes its class to ours, which subclasses its own.
    Layers of exactly the classes in ``REPLACEMENTS`` and their lazy forms are converted, and our layers
    are switched to ``algorithm``. Other people's subclasses are left alone, since they may compute
    something else, and so are layers whose ``forward`` was replaced. An op that does not have
    ``algorithm`` takes ``direct``. With ``fused`` and ``auto``, convolutions followed by a ReLU and a
    pooling in an ``nn.Sequential`` become one ``ConvReLUPool``, those of few channels followed by a
    tanh one ``ConvTanhPool``, and batch normalisations with the activations that alone read them, and
    max-poolings after these, ``BatchNormAct2d``, see ``cnnexp.nn.fuse_blocks``; with ``functions`` also
    where the network's own code calls them. Linear layers and the ReLU or tanh behind them are computed in
    one op (``cnnexp.nn.fuse_linears``). With ``fused`` and ``depthwise``, convolutions with one kernel a
    channel take ``depthwise``, all others ``direct``; with ``fused``, max-poolings ``small_indices``.

    The layers that keep torch's backward are logged with the reason (not for ``native``, which is torch's
    own): those that one might expect to be converted as a warning, the others as information; and
    ``cnnexp.nn.conversion(module)`` returns them.

    Args:
        module: The network, or one layer.
        algorithm: A name that some op has registered, or ``"auto"``.
        recompute: With ``fused`` and ``auto``, let layers compute again, instead of keeping it, what follows
            from what is kept anyway (``cnnexp.nn.fuse_recompute``): less memory, the same numbers, more time.
            Those layers take ``fused``, also where ``auto`` might choose otherwise.
        functions: With ``fused`` and ``auto``, make blocks also of activations and poolings that the
            network's ``forward`` calls as functions, or as layers outside of an ``nn.Sequential``: for code
            that passes the outputs of its layers on, and does nothing else with them; see
            ``cnnexp.nn.fuse_calls``.
        quiet: Log nothing.

    Returns:
        ``module``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered; nothing has been changed then.
        ValueError: ``recompute`` or ``functions`` with another algorithm; nothing has been changed then.

    Examples:
        >>> from torch import nn
        >>> import cnnexp
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Softmax(1))
        >>> cnnexp.replace_layers(network, "im2col")
        Sequential(
          (0): Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), algorithm=im2col)
          (1): ReLU(algorithm=direct)
          (2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False, algorithm=im2col)
          (3): Softmax(dim=1)
        )
    """
    for twin in REPLACEMENTS.values():
        ops.resolve_algorithm(twin.op, algorithm)
    blocks = algorithm in ("fused", ops.AUTO)
    for name, asked in (("recompute", recompute), ("functions=True", functions)):
        if asked and not blocks:
            raise ValueError(f"{name} goes with fused or auto, not {algorithm}; leave it out")
    split_blocks(module)
    _become_ours(module)
    if blocks:
        fuse_blocks(module, recompute, functions)
    _set_algorithms(module, algorithm)
    if not quiet and algorithm != "native":
        conversion(module).log()
    return module


def _become_ours(module: nn.Module) -> None:
    """Change the class of each layer that has a twin, unless somebody replaced what computes its output."""
    for layer in module.modules():
        twin = twin_of(plain_class(layer))
        if twin is not None and not is_replaced(layer):
            become(layer, twin)


def _set_algorithms(module: nn.Module, algorithm: str) -> None:
    """Let each layer of ours, also those whose place a block has taken, compute by ``algorithm``."""
    done = [layer.part for layer in module.modules() if isinstance(layer, Done)]
    for layer in (*module.modules(), *done):
        if isinstance(layer, Layer):
            again = getattr(layer, "recompute", False)
            layer.algorithm = layer.way_by("fused" if again else algorithm)
