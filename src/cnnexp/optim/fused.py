"""Guard torch's optimisers by one kernel for all weights (``fused=True``) against memory in another order.

On a CPU these kernels go through the memory of weight, gradient and state side by side, and look at no
strides (torch 2.11 to 2.14): with a weight in channels_last and a contiguous gradient each weight moves by
the gradient of another one, and nobody is told. Autograd gives a gradient the strides of its weight; but code
that sets ``weight.grad`` itself, a network whose memory format changes, and a file of another format do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Layouts", "has_gaps", "keep_layouts", "lie_alike", "refuse_gaps"]


def has_gaps(weight: Tensor) -> bool:
    """Whether other numbers lie between those of ``weight``, or some lie in one place.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import has_gaps
        >>> has_gaps(torch.zeros(2, 4).t()), has_gaps(torch.zeros(2, 4)[:, ::2])
        (False, True)
    """
    return not lie_alike(torch.empty_like(weight, device="meta"), weight)


def refuse_gaps(groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise a ValueError if weights that a kernel for all moves have gaps, over which it passes."""
    for weight in _weights(groups):
        if has_gaps(weight):
            raise ValueError(
                f"fused=True: a weight of shape {tuple(weight.shape)} has strides {weight.stride()}, with "
                f"gaps between its numbers, which torch's kernel takes for weights; make it contiguous, or "
                f"set fused=False"
            )


def keep_layouts(optimizer: Optimizer) -> None:
    """In each step by such a kernel, give gradients and state of ``optimizer`` the strides of their weights.

    A state that is loaded brings its own ``fused``: without it the steps go on as they were; with it only
    where ``optimizer`` was made with it.

    Raises:
        ValueError: A weight has gaps, over which the kernels pass.

    Examples:
        >>> import torch
        >>> from cnnexp.optim import keep_layouts
        >>> weight = torch.nn.Parameter(torch.zeros(1, 2, 1, 2).to(memory_format=torch.channels_last))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
        >>> keep_layouts(optimizer)
        >>> weight.grad = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 1, 2)
        >>> optimizer.step()
        >>> weight.flatten().tolist()  # -1, -3, -2, -4 without
        [-1.0, -2.0, -3.0, -4.0]
    """
    refuse_gaps(optimizer.param_groups)
    if getattr(optimizer, "keeps_layouts", False):  # as ours do by themselves
        return
    layouts = Layouts()
    optimizer.register_step_pre_hook(layouts)
    optimizer.register_load_state_dict_post_hook(layouts.reconcile)


class Layouts:
    """Gives gradients and state of an optimiser the strides of their weights, before each step."""

    def __init__(self) -> None:
        # of each weight the strides with which its state was in order: only gradients are new in each step
        self._in_order: dict[Tensor, tuple[int, ...]] = {}

    def __call__(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Put all in order now, or where a closure computes the gradients, once it has been called."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self.put_in_order(optimizer)
            return None

        def then_in_order() -> Any:
            loss = closure()
            self.put_in_order(optimizer)
            return loss

        return args[:1], {**kwargs, "closure": then_in_order}

    def reconcile(self, optimizer: Optimizer) -> None:
        """After a state was loaded."""
        self._in_order = {}
        for group in optimizer.param_groups:
            if group.get("fused") and not optimizer.defaults["fused"]:
                group["fused"] = None

    @torch.no_grad()
    def put_in_order(self, optimizer: Optimizer) -> None:
        """Now, whatever gradients and state there are."""
        for weight in _weights(optimizer.param_groups):
            strides = weight.stride()
            grad = weight.grad
            if grad is not None and _lies_otherwise(grad, weight):
                weight.grad = _like(weight, grad)
            if self._in_order.get(weight) == strides:
                continue
            state: dict[str, Any] = optimizer.state.get(weight) or {}
            for name, value in state.items():
                moved = isinstance(value, Tensor) and value.stride() != strides
                if moved and value.shape == weight.shape and not lie_alike(value, weight):
                    state[name] = _like(weight, value)
            if state:
                self._in_order[weight] = strides


def _weights(groups: Sequence[Mapping[str, Any]]) -> Iterator[Tensor]:
    """Those that a kernel for all moves."""
    for group in groups:
        if group.get("fused"):
            yield from group["params"]


def _lies_otherwise(grad: Tensor, weight: Tensor) -> bool:
    """Whether a gradient's numbers lie in another order than the weight's; those of a sparse one do not."""
    dense = grad.layout is torch.strided
    return dense and grad.stride() != weight.stride() and not lie_alike(grad, weight)


def lie_alike(one: Tensor, other: Tensor) -> bool:
    """Whether their numbers lie in the same order: the strides of dimensions of one element say nothing."""
    places = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(a == b for size, a, b in places if size != 1)


def _like(weight: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)
