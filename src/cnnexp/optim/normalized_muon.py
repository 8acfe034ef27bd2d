"""Muon for networks whose layers are normalised: orthogonal steps on weights of a fixed norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cnnexp.optim.fused import has_gaps
from cnnexp.optim.torchs import AdamW

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic polynomial; steepest at 0


class NormalizedMuon(Optimizer):
    """Muon on the weights of hidden layers, each kept at the norm √C_out; Adam on all other parameters.

    A batch normalisation takes the size of the weights before it out of its result, so that only their
    direction is learned. Here each step of a hidden weight W (C_out, the rest of its axes as one) is

    - b ← momentum · b + g, with g = ∂L/∂W; u = the orthogonal matrix near g + momentum · b (Nesterov),
    - W ← W · √C_out / ‖W‖, then W ← W − lr · u.

    Rows of W have the mean norm 1 and rows of u (C_out ≤ the number of columns) about the norm 1, so that
    ``lr`` is the relative change of the weights by one step, the same for layers of all sizes. The last
    layer's weight, to whose size the loss is not indifferent, and parameters of fewer than two axes take
    Adam's steps.

    Args:
        params: Parameters or groups of them, in the order of the network's layers: the last one of two or
            more axes is the last layer's weight.
        lr: Relative change of a hidden weight by a step, ≥ 0.
        adam_share: Adam's learning rate as a share of ``lr``, ≥ 0: both have one schedule.
        momentum: Of the hidden weights, in [0, 1).
        ns_steps: Newton-Schulz iterations towards the orthogonal matrix, ≥ 1; 3 are enough here.
        betas, eps: As for Adam.
        weight_decay: Decoupled weight decay of what Adam has, ≥ 0; a parameter group's own value takes
            precedence.

    Raises:
        ValueError: A range is violated.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), and the
    normalised form of K. Jordan's cifar10-airbench, ``airbench94_muon`` (2024).

    Examples:
        >>> import torch
        >>> from cnnexp.optim import NormalizedMuon
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        >>> optimizer = NormalizedMuon(network.parameters(), lr=0.1)
        >>> network(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> 1.5 < network[0].weight.norm() < 2.5
        tensor(True)
    """

    whole_weights = True

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        adam_share: float = 0.133,
        momentum: float = 0.7,
        ns_steps: int = 3,
        betas: Sequence[float] = (0.8, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in {
            "lr": lr,
            "adam_share": adam_share,
            "weight_decay": weight_decay,
        }.items():
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be at least 0 and finite, but got {value}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, but got {momentum}")
        if ns_steps < 1:
            raise ValueError(f"ns_steps must be at least 1, but got {ns_steps}")
        settings = {"momentum": momentum, "ns_steps": ns_steps, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr, "adam_share": adam_share, **settings})
        self._hidden: list[Tensor] = []
        last = [p for group in self.param_groups for p in group["params"] if p.dim() >= 2][-1:]
        rest = [self._without_hidden(group, last) for group in self.param_groups]
        # a group of no parameters stays, so that the groups of both are the same
        dense = not any(has_gaps(each) for group in rest for each in group["params"])
        self._adam = AdamW(
            rest, lr=lr * adam_share, betas=(betas[0], betas[1]), eps=eps, fused=dense
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train further layers, as when they are no longer frozen: all of their weights are hidden ones."""
        super().add_param_group(param_group)
        if "_adam" in vars(self):  # and torch's __init__ has not called this
            self._adam.add_param_group(self._without_hidden(self.param_groups[-1], ()))

    def _without_hidden(self, group: dict[str, Any], last: Sequence[Tensor]) -> dict[str, Any]:
        """What Adam has of ``group``; its hidden weights are noted."""
        hidden = [p for p in group["params"] if p.dim() >= 2 and not any(p is x for x in last)]
        self._hidden += hidden
        others = [p for p in group["params"] if not any(p is x for x in hidden)]
        return {"params": others, "weight_decay": group["weight_decay"]}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file holds."""
        return {**super().__getstate__(), "_hidden": self._hidden, "_adam": self._adam}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; return the loss of ``closure``, if given, which computes loss and gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        hidden = {id(p) for p in self._hidden}
        for group, own in zip(self.param_groups, self._adam.param_groups, strict=True):
            own["lr"] = group["lr"] * group["adam_share"]
            own["weight_decay"] = group["weight_decay"]
            for parameter in group["params"]:
                if id(parameter) in hidden and parameter.grad is not None:
                    self._turn(parameter, group)
        self._adam.step()
        return loss

    def _turn(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """The step of one hidden weight."""
        gradient, momentum = parameter.grad, group["momentum"]
        assert gradient is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
        ahead = gradient.add(buffer, alpha=momentum)
        turned = orthogonal(ahead.flatten(1), group["ns_steps"]).view_as(parameter)
        scale = len(parameter) ** 0.5 / parameter.norm().clamp(min=1e-12)
        parameter.mul_(scale).sub_(turned, alpha=group["lr"])

    def state_dict(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Torch's own, for the hidden weights, and under ``adam`` that of Adam."""
        return {**super().state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Resume from a state that :meth:`state_dict` returned.

        Raises:
            ValueError: Its parameter groups are not those of this optimiser.
        """
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "adam"})
        self._adam.load_state_dict(state_dict["adam"])


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """The orthogonal factor of ``matrix`` (R, C), nearly: its singular values become about 1.

    Each Newton-Schulz step maps X to (a + b·X Xᵀ + c·(X Xᵀ)²) X. Its factor commutes with X Xᵀ, so that
    all steps are taken on this smaller matrix, and X is multiplied once, by the product of the factors.

    Args:
        matrix: Any matrix; zeros stay zeros.
        steps: How many, ≥ 1; after 3 of them singular values above 2 % of the matrix's norm are in
            0.68…1.21, smaller ones below.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix if matrix.size(0) <= matrix.size(1) else matrix.mT
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.mT
    product: Tensor | None = None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    assert product is not None
    result = product @ wide
    return result if matrix.size(0) <= matrix.size(1) else result.mT
