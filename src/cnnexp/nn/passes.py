"""What ``torch.fx`` tells of a network's forward passes, and which of our layers a block may be made of."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnexp.as_found import left_as_found
from cnnexp.nn.conv import Conv2d
from cnnexp.nn.layer import Layer
from cnnexp.nn.norm import BatchNorm2d
from cnnexp.nn.steps import Step, step_of
from cnnexp.nn.twins import plain_class
from cnnexp.ops.torch_internals import has_hooks

SUMS = (operator.add, operator.iadd, torch.add)
_KEEP_NOTHING = (*SUMS, operator.sub, torch.cat)  # none of their arguments, for a backward


_LISTENS = "listens_for_cnnexp"

Passes = list[list[fx.Node]]


def passes(module: nn.Module) -> Passes | None:
    """The nodes of a pass in training and of one in evaluation; None where ``torch.fx`` cannot trace them.

    Layers of ours and of ``torch.nn`` are one node each. The network is restored afterwards.
    """
    found = []
    with left_as_found(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for training in (True, False):
            module.train(training)
            try:
                found.append([*_Tracer().trace(module).nodes])
            except Exception:  # of somebody else's forward, which is given no tensor
                return None
    return found


class _Tracer(fx.Tracer):
    """A tracer to which layers of ours are one node each, also where they are called on a buffer."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See ``fx.Tracer``, to which those of ``torch.nn`` are."""
        return isinstance(m, Layer) or super().is_leaf_module(m, module_qualified_name)


def in_order(parent: nn.Module) -> list[tuple[str, nn.Module]]:
    """The names and layers right below ``parent``, one that stands in several places as often."""
    every = parent.named_modules(remove_duplicate=False)
    return [(name, layer) for name, layer in every if name and "." not in name]


def places(module: nn.Module) -> dict[nn.Module, list[tuple[nn.Module, str]]]:
    """Where in ``module`` each layer is: parents and names, those of a parent with several names as often."""
    found: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for parent in module.modules():
        for name, layer in in_order(parent):
            found.setdefault(layer, []).append((parent, name))
    return found


def layer_of(module: nn.Module, node: fx.Node) -> nn.Module:
    """The layer that ``node`` calls."""
    return module.get_submodule(str(node.target))


def function_step(node: fx.Node) -> Step | None:
    """The step that ``node`` is, a call of a function or of a tensor's method; None where it is none."""
    if node.op not in ("call_function", "call_method"):
        return None
    function = node.target if callable(node.target) else getattr(Tensor, node.target, None)
    return step_of(function, node.args, node.kwargs)


def is_convolved(module: nn.Module, node: fx.Node) -> bool:
    """Whether convolutions of ours keep what ``node`` returns, and nothing else does."""
    for user in node.users:
        passes_on = user.op == "call_function" and user.target in _KEEP_NOTHING
        if convolution(module, user) is None and not passes_on:
            return False
    return any(convolution(module, user) is not None for user in node.users)


def convolution(module: nn.Module, node: fx.Node) -> Conv2d | None:
    """The convolution of ours that ``node`` calls, if it calls one."""
    layer = layer_of(module, node) if node.op == "call_module" else None
    return layer if isinstance(layer, Conv2d) and plain_class(layer) is Conv2d else None


def is_norm(layer: nn.Module) -> bool:
    """Whether ``layer`` is a batch normalisation of ours that may become part of a block."""
    return plain_class(layer) is BatchNorm2d and is_plain(layer)


def is_plain(layer: nn.Module) -> bool:
    """Whether nobody looks at the outputs of ``layer`` itself."""
    if has_hooks(layer):
        return False
    own = vars(layer).get("forward")
    return own is None or hasattr(own, _LISTENS)


def listening(forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward``, which somebody puts in the place of a layer's to hear of calls, and changes nothing."""
    setattr(forward, _LISTENS, True)
    return forward
