"""Outputs that a network's own code adds, and activates by a function, as residual blocks do.

In ``F.relu(self.bn(x) + x)`` no layer of ours reads the sum, so none can keep less for the ReLU. The
normalisation (one of them, where there are two) therefore returns an :class:`Operand` in place of its output,
which is computed already. The sum with another tensor is a :class:`Total`, of which a ReLU is
``cnnexp.ops.relu.relu_of_sum``. Any other call gets the output itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnexp.nn.deferred import Placeholder, placeholder
from cnnexp.nn.steps import RELU, Step
from cnnexp.ops.relu import relu_of_sum

_ADDITIONS = (Tensor.add, Tensor.add_, torch.add)  # the operators + and += are the first two


class _Computed(Placeholder):
    """In place of an output that is computed already."""

    value: Tensor

    def output(self) -> Tensor:
        """See ``Placeholder.output``."""
        return self.value


class Operand(_Computed):
    """The output of a layer that may be an operand of a sum."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` with the output; if it adds two tensors, the sum is a :class:`Total`."""
        result = super().__torch_function__(func, types, args, kwargs)
        two = len(args) == 2 and not kwargs and all(isinstance(each, Tensor) for each in args)
        return _in_place_of(result, Total) if two and func in _ADDITIONS else result

    def after(self, step: Step, inplace: bool = False) -> None:
        """No step has to do with an operand."""


class Total(_Computed):
    """The sum of an operand and another tensor."""

    def after(self, step: Step, inplace: bool = False) -> Tensor | None:
        """The ReLU of the sum, which keeps nothing where a backward can add again."""
        return relu_of_sum(self.value, inplace) if step == RELU else None


def operand(output: Tensor) -> Tensor:
    """A placeholder of ``output``, where a backward may follow."""
    return _in_place_of(output, Operand)


def _in_place_of(output: Tensor, kind: type[_Computed]) -> Tensor:
    if not (output.requires_grad and torch.is_grad_enabled()):
        return output
    found = placeholder(kind)
    found.value = output
    return found
