"""torch's Adagrad, Adam, AdamW and SGD with less Python around their kernel (see ``one_kernel``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from cnnexp.optim.fused import refuse_gaps
from cnnexp.optim.one_kernel import STEP, ByOneKernel
from cnnexp.optim.torch_internals import move_by_adagrad, move_by_adam, move_by_sgd

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "with_less_python"]


class Adam(ByOneKernel, torch.optim.Adam):
    """``torch.optim.Adam``, whose steps take less time with ``fused=True`` for small weights on a CPU.

    Args:
        *args, **kwargs: As for ``torch.optim.Adam``.

    Raises:
        ValueError: With ``fused=True``, a weight has gaps, over which the kernel passes.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import Adam
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = Adam([weight], lr=0.25, fused=True)
        >>> for _ in range(2):
        ...     weight.grad = torch.tensor([1.0, -3.0])
        ...     optimizer.step()
        >>> weight.data.round(decimals=3).tolist()
        [0.5, 1.5]
    """

    _torchs = torch.optim.Adam
    move = staticmethod(move_by_adam)

    def _names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        most = ("max_exp_avg_sq",) if group["amsgrad"] else ()
        return ("exp_avg", "exp_avg_sq", *most, STEP)


class AdamW(Adam, torch.optim.AdamW):
    """``torch.optim.AdamW``, as :class:`Adam` is torch's Adam.

    Args:
        *args, **kwargs: As for ``torch.optim.AdamW``.

    Raises:
        ValueError: With ``fused=True``, a weight has gaps, over which the kernel passes.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2.
    """

    _torchs = torch.optim.AdamW


class Adagrad(ByOneKernel, torch.optim.Adagrad):
    """``torch.optim.Adagrad``, as :class:`Adam` is torch's Adam.

    Args:
        *args, **kwargs: As for ``torch.optim.Adagrad``.

    Raises:
        ValueError: With ``fused=True``, a weight has gaps, over which the kernel passes.

    Source: Duchi, Hazan & Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization" (2011), figure 1, with a diagonal matrix.
    """

    _torchs = torch.optim.Adagrad
    move = staticmethod(move_by_adagrad)

    def _names(self, group: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG002 (of all groups)
        return ("sum", STEP)


class SGD(ByOneKernel, torch.optim.SGD):
    """``torch.optim.SGD``, as :class:`Adam` is torch's Adam.

    Args:
        *args, **kwargs: As for ``torch.optim.SGD``.

    Raises:
        ValueError: With ``fused=True``, a weight has gaps, over which the kernel passes.

    Source: Polyak, "Some methods of speeding up the convergence of iteration methods" (1964), for the
    momentum; Nesterov (1983) and Sutskever et al. (2013) for Nesterov's.
    """

    _torchs = torch.optim.SGD
    move = staticmethod(move_by_sgd)

    def _names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()


_OURS: dict[type[Optimizer], type[ByOneKernel]] = {
    torch.optim.Adagrad: Adagrad,
    torch.optim.Adam: Adam,
    torch.optim.AdamW: AdamW,
    torch.optim.SGD: SGD,
}


def with_less_python(optimizer: Optimizer) -> Optimizer:
    """``optimizer`` as one of the classes above, if it is one of torch's that there is here; else itself.

    The two share their state: go on with the one that is returned, and make schedulers of that. An optimiser
    that has a scheduler, or weights elsewhere than on a CPU, is left as it is.

    Raises:
        ValueError: With ``fused=True``, a weight has gaps, over which the kernel passes.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import with_less_python
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> type(with_less_python(torch.optim.SGD([weight], lr=0.1, fused=True)))
        <class 'cnnexp.optim.torchs.SGD'>
    """
    kind = _OURS.get(type(optimizer))
    weights = [each for group in optimizer.param_groups for each in group["params"]]
    scheduled = "step" in vars(optimizer)  # by a function that holds this one
    if kind is None or scheduled or any(each.device.type != "cpu" for each in weights):
        return optimizer
    refuse_gaps(optimizer.param_groups)
    made = kind.__new__(kind)
    made.__setstate__({**vars(optimizer)})  # as one that is unpickled
    return made
