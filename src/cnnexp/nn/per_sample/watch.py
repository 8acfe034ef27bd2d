"""Watch the layers of a network while it learns from a batch, so that each sample's gradient is known."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from cnnexp.nn.conv import Conv2d, ConvReLUPool, ConvTanhPool
from cnnexp.nn.deferring import (
    DeferredBatchNormAct2d,
    DeferredConvReLUPool,
    DeferredConvTanhPool,
    Deferring,
    OperandBatchNorm2d,
)
from cnnexp.nn.heads import settle_blocks
from cnnexp.nn.linear import Linear, LinearAct
from cnnexp.nn.norm import BatchNorm2d, BatchNormAct2d
from cnnexp.nn.per_sample.calls import (
    BlockCall,
    Call,
    ConvCall,
    LinearCall,
    OpaqueCall,
    TanhBlockCall,
)
from cnnexp.nn.per_sample.errors import PerSampleError
from cnnexp.nn.per_sample.norm_calls import BatchNormCall, NormCall
from cnnexp.ops.ownership import owned

__all__ = ["watched", "watched_layers"]

_KINDS: dict[type[nn.Module], type[Call]] = {
    nn.Linear: LinearCall,
    Linear: LinearCall,
    LinearAct: LinearCall,
    nn.Conv2d: ConvCall,
    Conv2d: ConvCall,
    ConvReLUPool: BlockCall,
    ConvTanhPool: TanhBlockCall,
    nn.GroupNorm: NormCall,
    nn.LayerNorm: NormCall,
    nn.BatchNorm1d: BatchNormCall,
    nn.BatchNorm2d: BatchNormCall,
    nn.BatchNorm3d: BatchNormCall,
    BatchNorm2d: BatchNormCall,
    BatchNormAct2d: BatchNormCall,
    DeferredConvReLUPool: ConvCall,
    DeferredConvTanhPool: ConvCall,
    DeferredBatchNormAct2d: BatchNormCall,
    OperandBatchNorm2d: BatchNormCall,
}


def watched_layers(network: nn.Module) -> dict[str, tuple[nn.Module, type[Call]]]:
    """The layers of ``network`` that have parameters which train, and how their gradients are told apart.

    A layer whose class is none of those with a formula is one piece, together with all within it.
    """
    found: dict[str, tuple[nn.Module, type[Call]]] = {}
    seen: set[nn.Module] = set()  # a layer may stand in several parents

    def look(name: str, module: nn.Module) -> None:
        if module in seen:
            return
        seen.add(module)
        kind = _KINDS.get(type(module))
        own = any(p.requires_grad for p in module.parameters(recurse=False))
        own = own or is_parametrized(module)  # whose parameters lie within what makes its weights
        if kind is None and own:
            kind = OpaqueCall
        if kind is None:
            for child_name, child in module.named_children():
                look(f"{name}.{child_name}" if name else child_name, child)
        elif any(p.requires_grad for p in module.parameters()):
            found[name] = module, kind

    look("", network)
    return found


@contextmanager
def watched(network: nn.Module, samples: int, copies: int = 1) -> Iterator[list[Call]]:
    """Within it, every call of a layer of ``network`` is noted, and no parameter gets a gradient.

    Args:
        network: Of which forward and backward passes are made, in training.
        samples: N, how many samples a pass is of.
        copies: K, how many rows of the batch each sample has, one after the other.

    Yields:
        The calls so far, in their order.
    """
    calls: list[Call] = []
    settle_blocks(network)
    layers = watched_layers(network)
    before = {name: vars(layer).get("forward") for name, (layer, _) in layers.items()}
    try:
        for name, (layer, kind) in layers.items():
            forward = layer.alone if isinstance(layer, Deferring) else layer.forward
            make = partial(kind, name, layer, forward, copies)
            layer.forward = partial(_call, make, forward, calls, samples * copies)
        yield calls
    finally:
        for name, (layer, _) in layers.items():
            vars(layer).pop("forward", None)
            if (own := before[name]) is not None:
                layer.forward = own


def _call(
    make: Callable[[], Call],
    forward: Callable[..., Any],
    calls: list[Call],
    rows: int,
    *inputs: Any,
    **options: Any,
) -> Tensor:
    """Stand in for the layer's ``forward``."""
    call = make()
    inputs, options = _by_position(forward, inputs, options)
    if not any(isinstance(each, Tensor) for each in inputs) or any(
        isinstance(each, Tensor) for each in options.values()
    ):
        raise PerSampleError(
            f"{call.name} ({type(call.layer).__name__}) takes no tensor of the batch, or one that cannot be "
            f"given by its position, so that its gradients cannot be told apart by sample; freeze it "
            f"(parameters.frozen)"
        )
    with _without_gradient(call):
        output, kept = call.run(*inputs, **options)
    for each in (*inputs, output):
        _check_batch(call, each, rows)
    calls.append(call)
    kept = [each.detach() for each in kept]
    return call.after(_Tap.apply(output, call.anchor, call, *kept))


def _by_position(
    forward: Callable[..., Any], inputs: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with tensors that are given by name in their places among the others."""
    if not any(isinstance(each, Tensor) for each in options.values()):
        return inputs, options
    left = dict(options)
    names = [
        each.name
        for each in inspect.signature(forward).parameters.values()
        if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    for name in names[len(inputs) :]:
        if not isinstance(left.get(name), Tensor):
            break
        inputs = (*inputs, left.pop(name))
    return inputs, left


@contextmanager
def _without_gradient(call: Call) -> Iterator[None]:
    """Within it the parameters of ``call`` are constants to autograd."""
    for parameter in call.parameters.values():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in call.parameters.values():
            parameter.requires_grad_(True)


def _check_batch(call: Call, tensor: Any, rows: int) -> None:
    if not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        raise PerSampleError(
            f"{call.name} ({type(call.layer).__name__}) gives a {kind}; each layer with parameters must "
            f"give one tensor, so that the gradient of each sample can be told"
        )
    if tensor.dim() == 0 or tensor.size(0) != rows:
        raise PerSampleError(
            f"{call.name} ({type(call.layer).__name__}) takes or gives a tensor {list(tensor.shape)} in a "
            f"batch of {rows} samples; its first dimension must be the samples, so that the gradient of each "
            f"can be told"
        )


class _Tap(torch.autograd.Function):
    """The output of a call, through which the backward pass leaves ∂L/∂y at the call."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, _anchor: Tensor, call: Call, *kept: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(*kept)  # so that autograd notices if they are changed in place
        return owned(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (grad_output,) = grad_outputs
        ctx.call.kept, ctx.call.grad_output = ctx.saved_tensors, grad_output
        grad = grad_output if ctx.needs_input_grad[0] else None
        return (grad, *[None] * (2 + len(ctx.call.kept)))
