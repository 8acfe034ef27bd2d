"""Blocks whose activation and pooling the network's own code calls, as functions or as layers anywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnnexp.nn.awaited_sums import operand
from cnnexp.nn.conv import ConvReLUPool, ConvTanhPool
from cnnexp.nn.deferred import defer
from cnnexp.nn.layer import Layer
from cnnexp.nn.norm import BatchNormAct2d
from cnnexp.nn.steps import Step
from cnnexp.ops.registry import NATIVE
from cnnexp.ops.torch_internals import has_hooks, in_torch_func


class Deferring(Layer):
    """A mixin for a block whose activation and pooling other code calls; it precedes the block's class.

    Attributes:
        steps: The calls after the layer that its block includes, in their order.
    """

    computes = ("block",)
    steps: tuple[Step, ...] = ()

    def forward(self, input: Tensor) -> Tensor:
        """Return what the layer alone gives, deferred where the next calls may be those of the block."""
        if self.algorithm == NATIVE or _is_looked_at(self, input):
            return self.alone(input)
        return defer(self, input)

    def alone(self, input: Tensor) -> Tensor:
        """Return what the layer gives without the steps after it, as torch computes it."""
        raise NotImplementedError(f"{type(self).__name__} must define alone()")

    def block(self, input: Tensor) -> Tensor:
        """Return what the layer and all its steps give."""
        return super().forward(input)


class DeferredConvReLUPool(Deferring, ConvReLUPool):
    """``ConvReLUPool`` for a network that calls ReLU and pooling itself."""

    def alone(self, input: Tensor) -> Tensor:
        """Return the convolution, (N, C_out, H', W')."""
        return nn.Conv2d.forward(self, input)


class DeferredConvTanhPool(Deferring, ConvTanhPool):
    """``ConvTanhPool`` for a network that calls tanh and, if there is one, the pooling itself."""

    def alone(self, input: Tensor) -> Tensor:
        """Return the convolution, (N, C_out, H', W')."""
        return nn.Conv2d.forward(self, input)


class DeferredBatchNormAct2d(Deferring, BatchNormAct2d):
    """``BatchNormAct2d`` for a network that calls the activation itself."""

    def alone(self, input: Tensor) -> Tensor:
        """Return the normalisation, (N, C, H, W)."""
        return nn.BatchNorm2d.forward(self, input)


class OperandBatchNorm2d(BatchNormAct2d):
    """``BatchNormAct2d`` without an activation, for a network that adds to its output, and activates that."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` (N, C, H, W) normalised; see ``cnnexp.nn.awaited_sums``."""
        output = super().forward(input)
        alone = self.algorithm == NATIVE or _is_looked_at(self, input)
        return output if alone else operand(output)


def _is_looked_at(layer: nn.Module, input: Tensor) -> bool:
    """Whether somebody else wants the layer's own output, or follows its operations."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or in_torch_func()
    return recorded or type(input) not in (Tensor, nn.Parameter) or has_hooks(layer)
