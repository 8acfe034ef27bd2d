"""Find what a network's convolutions read that a backward can compute again, beyond normalisations.

- Sums of residual blocks, out = ReLU(a + b). torch keeps ``out`` for the ReLU and for the convolutions
  that read it. But where a is what a batch normalisation gave, which follows from what that keeps, and b
  is another such, or what the block's first convolution reads, out follows from what is kept anyway; and
  so does the next block's, from this one's.
- Products, and parts of a tensor: see ``cnnexp.ops.recomputed_inputs``.

And max-poolings keep their winners in fewer bytes (``cnnexp.ops.max_pool2d``), and linear layers no cast that
autocast makes of their weights.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import fx, nn

from cnnexp.nn.activation import ReLU
from cnnexp.nn.conv import Conv2d
from cnnexp.nn.linear import Linear
from cnnexp.nn.passes import (
    SUMS,
    convolution,
    function_step,
    is_convolved,
    is_norm,
    is_plain,
    layer_of,
)
from cnnexp.nn.pool import MaxPool2d
from cnnexp.nn.steps import RELU

_PRODUCTS = (operator.mul, operator.imul, torch.mul)
_PARTS = ("chunk", "split", torch.chunk, torch.split)


class _Sum(NamedTuple):
    """A sum that can be computed again.

    Attributes:
        relu: The layer that alone reads it; None where the network's own code calls a function.
        norms: The normalisations that give an operand.
        readers: The convolutions that read an operand.
    """

    relu: ReLU | None
    norms: tuple[nn.Module, ...]
    readers: tuple[Conv2d, ...]


def recompute_inputs(
    module: nn.Module, passes: Sequence[Sequence[fx.Node]], functions: bool = False
) -> dict[nn.Module, bool]:
    """Let convolutions and ReLUs compute again what they read, where ``passes`` show that they can.

    Args:
        module: The network.
        passes: What it calls.
        functions: Whether the ReLU of a sum may be a function, as in ``F.relu(self.bn(x) + x)``.

    Returns:
        The normalisations that are to recompute as operands of a sum, and of each whether it has to wait for
        such a function: one for each sum that has one.
    """
    each_pass = [[_input_of(module, node) for node in nodes] for nodes in passes]
    for found in each_pass[0]:
        if found is not None and all(found in others for others in each_pass[1:]):
            conv, conv.reads = found
    sums = [_sums(module, nodes, functions) for nodes in passes]
    common = [one for one in sums[0] if all(one in others for others in sums[1:])]
    for found in common:
        if found.relu is not None:
            found.relu.recompute = True
        for reader in found.readers:
            reader.reads = "operand"
    return {
        norm: found.relu is None and norm is found.norms[0]
        for found in common
        for norm in found.norms
    }


def keep_less(module: nn.Module) -> None:
    """Let max-poolings keep their winners in few bytes, and linear layers no casts of their weights."""
    for layer in module.modules():
        if isinstance(layer, (Linear, MaxPool2d)):
            layer.recompute = True


def forget_inputs(module: nn.Module) -> None:
    """Undo :func:`recompute_inputs` and :func:`keep_less`."""
    for layer in module.modules():
        if isinstance(layer, (Linear, ReLU, MaxPool2d)):
            vars(layer).pop("recompute", None)
        elif isinstance(layer, Conv2d):
            vars(layer).pop("reads", None)


def _input_of(module: nn.Module, node: fx.Node) -> tuple[Conv2d, str] | None:
    """The convolution of ours that ``node`` calls, and what kind of input it reads; None for all else."""
    conv = convolution(module, node)
    read = node.args[0] if conv is not None and len(node.args) == 1 else None
    if conv is None or not isinstance(read, fx.Node) or read.op != "call_function":
        return None
    if read.target in _PRODUCTS and is_convolved(module, read):
        return conv, "product"
    if read.target is operator.getitem:
        whole = read.args[0]
        if isinstance(whole, fx.Node) and whole.target in _PARTS:
            return conv, "part"
    return None


def _sums(module: nn.Module, nodes: Sequence[fx.Node], functions: bool) -> list[_Sum]:
    called = [layer_of(module, node) for node in nodes if node.op == "call_module"]
    found = []
    for node in nodes:
        relu = _relu(module, node)
        total = (
            _summed(node)
            if relu is not None or (functions and function_step(node) == RELU)
            else None
        )
        operands = [] if total is None else [_operand(module, each, called) for each in total.args]
        if operands and None not in operands and is_convolved(module, node):
            norms = tuple(each for each in operands if each is not None and is_norm(each))
            readers = tuple(each for each in operands if isinstance(each, Conv2d))
            if norms or relu is not None:  # which stand in the way of a function
                found.append(_Sum(relu, norms, readers))
    return found


def _relu(module: nn.Module, node: fx.Node) -> ReLU | None:
    """The ReLU of ours that ``node`` calls, if it calls one."""
    relu = layer_of(module, node) if node.op == "call_module" else None
    if not isinstance(relu, ReLU) or type(relu) is not ReLU or not is_plain(relu):
        return None
    return relu if len(node.args) == 1 and not node.kwargs else None


def _summed(relu: fx.Node) -> fx.Node | None:
    """The sum of two tensors that ``relu`` alone reads; None where it reads something else."""
    total = relu.args[0]
    if not isinstance(total, fx.Node):
        return None
    plain = total.op == "call_function" and total.target in SUMS and not total.kwargs
    two = len(total.args) == 2 and all(isinstance(each, fx.Node) for each in total.args)
    return total if plain and two and [*total.users] == [relu] else None


def _operand(module: nn.Module, node: object, called: Sequence[nn.Module]) -> nn.Module | None:
    """The normalisation that gives ``node`` to the sum alone, or else a convolution that reads it."""
    assert isinstance(node, fx.Node)
    if node.op == "call_module" and len(node.users) == 1:
        layer = layer_of(module, node)
        return layer if is_norm(layer) and called.count(layer) == 1 else None
    readers = [convolution(module, user) for user in node.users]
    return next((each for each in readers if each is not None), None)
