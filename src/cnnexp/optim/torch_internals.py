"""What ``cnnexp.optim`` uses of torch's private interface; no other file of the folder does.

Each use is one function, which says what public way was looked for. Tried with torch 2.14.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = [
    "lost_by_copies_of_lbfgs",
    "move_by_adagrad",
    "move_by_adam",
    "move_by_sgd",
    "whole_step",
]

_Group = Mapping[str, Any]


def move_by_adam(
    group: _Group,
    weights: list[Tensor],
    grads: list[Tensor],
    state: Mapping[str, list[Tensor]],
) -> None:
    """Move ``weights`` as Adam does, or AdamW where the group's weight decay is decoupled, by one kernel.

    ``torch.optim`` was looked at: its functions sort the tensors by device and dtype in each call, which
    takes longer than the kernel does for small networks.
    """
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    of_weights = weights, grads, state["exp_avg"], state["exp_avg_sq"]
    kernel(
        *(*of_weights, state.get("max_exp_avg_sq", []), state["step"]),
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        maximize=group["maximize"],
    )


def move_by_adagrad(
    group: _Group,
    weights: list[Tensor],
    grads: list[Tensor],
    state: Mapping[str, list[Tensor]],
) -> None:
    """Move ``weights`` as Adagrad does; see :func:`move_by_adam`."""
    torch._fused_adagrad_(
        *(weights, grads, state["sum"], state["step"]),
        lr=group["lr"],
        lr_decay=group["lr_decay"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )


def move_by_sgd(
    group: _Group,
    weights: list[Tensor],
    grads: list[Tensor],
    state: Mapping[str, list[Tensor]],
) -> None:
    """Move ``weights`` as SGD does; see :func:`move_by_adam`."""
    torch._fused_sgd_(
        *(weights, grads, state.get("momentum_buffer", [])),
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
    )


def whole_step(kind: type[Optimizer]) -> Callable[..., Any]:
    """The method ``step`` of ``kind`` without the hooks of a step, which a subclass calls around its own.

    ``super().step`` was looked at: torch wraps the method of a class in its hooks once somebody makes an
    optimiser of it, so that a subclass would call them twice.
    """
    step: Any = kind.step
    return step.__wrapped__ if getattr(step, "hooked", False) else step


def lost_by_copies_of_lbfgs(optimizer: torch.optim.LBFGS) -> dict[str, Any]:
    """The attributes without which a step of ``optimizer`` fails, and which torch's copies lack.

    ``copy.deepcopy`` and ``pickle`` were looked at: torch's optimisers give them settings, states and groups.
    """
    return {name: vars(optimizer)[name] for name in ("_params", "_numel_cache")}
