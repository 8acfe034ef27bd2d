"""How an op calls a kernel that is a torch operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import Tensor
from torch.nn import Parameter

from cnnexp.kernels.operators import undispatched
from cnnexp.ops.forward_mode import transformed
from cnnexp.ops.torch_internals import is_batched_by_autograd

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def way_to(
    operator: Callable[_Arguments, _Result], *tensors: Tensor
) -> Callable[_Arguments, _Result]:
    """``operator``, without torch's dispatcher where ``tensors`` are as all that a step computes with."""
    if transformed():
        return operator
    for each in tensors:
        if type(each) not in (Tensor, Parameter) or is_batched_by_autograd(each):
            return operator
    return undispatched(operator)
