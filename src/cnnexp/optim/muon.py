"""Muon for the matrices of a network, AdamW for all other parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class MuonWithAdamW(Optimizer):
    """``torch.optim.Muon`` on weights of convolutions and linear layers, ``AdamW`` on the rest.

    Muon replaces the momentum of a weight matrix by the nearest orthogonal matrix, so that no
    direction of it is learned faster than another. The kernel of a convolution is the matrix
    (C_out, C_in·K_h·K_w). The learning rate is scaled so that updates are as large as AdamW's: one
    ``lr`` is right for both.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate of both.
        momentum: Momentum of Muon, in [0, 1).
        weight_decay: Decoupled weight decay of both; a parameter group's own value takes precedence.
        betas, eps: As for AdamW.
        ns_steps: Newton-Schulz iterations towards the orthogonal matrix, ≥ 1.

    Raises:
        ValueError: A range is violated.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); Liu et
    al., "Muon is Scalable for LLM Training" (2025), section 2.2, for the scale.
    """

    whole_weights = True

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        ns_steps: int = 5,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        of_muon = {"momentum": momentum, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"}
        self._own = of_muon, {"betas": (betas[0], betas[1]), "eps": eps}
        self._inner: list[Optimizer] = []
        groups, self.param_groups = self.param_groups, []
        for group in groups:
            self._divide(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train further parameters, as of layers that are no longer frozen."""
        super().add_param_group(param_group)
        if "_inner" in vars(self):  # and torch's __init__ has not called this
            self._divide(self.param_groups.pop())

    def _divide(self, group: dict[str, Any]) -> None:
        """Add a group of the matrices in ``group`` and one of the rest, each with its optimiser."""
        common = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
        of_muon, of_adam = self._own
        for matrices in (True, False):
            own = [p for p in group["params"] if (p.dim() >= 2) == matrices]
            flat = [nn.Parameter(_as_matrix(p.detach(), p)) for p in own]
            if own:
                self.param_groups.append({**group, "params": own})
                self._inner.append(
                    torch.optim.Muon(flat, **common, **of_muon)
                    if matrices
                    else torch.optim.AdamW(flat, **common, **of_adam)
                )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file holds."""
        return {**super().__getstate__(), "_own": self._own, "_inner": self._inner}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; return the loss of ``closure``, if given, which computes loss and gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, inner in zip(self.param_groups, self._inner, strict=True):
            (own,) = inner.param_groups
            own |= {"lr": group["lr"], "weight_decay": group["weight_decay"]}
            for parameter, flat in zip(group["params"], own["params"], strict=True):
                flat.data = _as_matrix(parameter.data, parameter)  # mostly the same memory
                grad = parameter.grad
                flat.grad = None if grad is None else _as_matrix(grad, parameter)
            inner.step()
            for parameter, flat in zip(group["params"], own["params"], strict=True):
                flat.grad = None
                if flat.data_ptr() != parameter.data_ptr():  # a weight with gaps, or transposed
                    places = parameter.data.permute(_axes(parameter))
                    places.copy_(flat.data.view(places.shape))
        return loss

    def state_dict(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The settings of the groups, and the states of Muon and AdamW group by group."""
        settings = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        return {"param_groups": settings, "inner": [each.state_dict() for each in self._inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Resume from a state that :meth:`state_dict` returned.

        Raises:
            ValueError: Its number of groups is not that of this optimiser.
        """
        if len(state_dict["inner"]) != len(self._inner):
            raise ValueError(
                f"the state is of {len(state_dict['inner'])} parameter groups, but there are "
                f"{len(self._inner)}"
            )
        for group, settings in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(settings)
        for inner, state in zip(self._inner, state_dict["inner"], strict=True):
            inner.load_state_dict(state)


def _as_matrix(values: Tensor, parameter: Tensor) -> Tensor:
    """``values`` as a matrix (C_out, rest), in the order in which ``parameter`` lies in memory."""
    if parameter.dim() < 2:
        return values
    return values.permute(_axes(parameter)).reshape(values.size(0), -1)


def _axes(parameter: Tensor) -> list[int]:
    """The axes of ``parameter``: the first, then the others in the order in which they lie in memory."""
    rest = sorted(range(1, parameter.dim()), key=parameter.stride, reverse=True)
    return [0, *rest] if parameter.dim() else []
