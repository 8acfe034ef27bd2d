"""The derivative of the gradient: right, wrong, or not offered because autograd cannot follow the
backward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cnnexp.proofs.calls import Call, Run
from cnnexp.proofs.cuts import cut_in
from cnnexp.proofs.differences import Noise, slope_at, slope_near
from cnnexp.proofs.gradients import Sent, signed
from cnnexp.proofs.report import Report

ASPECT = "second derivative"
_DIRECTIONS = 2


def judge_second_derivative(report: Report, call: Call, sent: Sent, noise: Noise) -> None:
    """Compare the derivative of Σ (fixed numbers) · ∂L/∂leaf with differences, along directions."""
    report.verdict(ASPECT)
    projection = _Projection(call, sent)
    try:
        found = projection.derivatives()
    except Exception as error:
        report.missing(ASPECT, f"{type(error).__name__}: {error}")
        return
    generator = torch.Generator().manual_seed(17)
    for i, (name, point) in enumerate(projection.points()):
        for _ in range(_DIRECTIONS):
            direction = signed(point, generator)
            derivative = found[i]
            mine = 0.0 if derivative is None else (derivative * direction).sum().item()
            if projection.agrees(i, direction, mine, derivative, noise):
                continue
            _say(report, call, projection, name, derivative, mine)
            break


def _say(
    report: Report,
    call: Call,
    projection: _Projection,
    name: str,
    found: Tensor | None,
    mine: float,
) -> None:
    what = f"the derivative of the gradients by {name}"
    if math.isnan(projection.slope):
        text = f"{what} has no finite differences here"
    elif call.settled:
        text = (
            f"{what} leaves out that forward changes buffers and uses them; where this is meant, as "
            "in spectral_norm, nothing is to be done"
        )
    elif found is None:
        text = (
            f"{what} is missing, and torch would silently leave it out: the backward is cut from {name} "
            "(numpy, .detach(), .data, no_grad, or a value that forward computed and saved); mark it "
            "with torch.autograd.function.once_differentiable"
        )
    elif cut := cut_in(call, projection.sent):
        text = (
            f"{what} is incomplete, and torch would not say so: the backward uses {cut}; mark it with "
            "torch.autograd.function.once_differentiable"
        )
    else:
        numbers = f"{mine:.6g} instead of {projection.slope:.6g}"
        report.wrong(ASPECT, f"{what} is wrong: {numbers} along a direction")
        return
    report.missing(ASPECT, text)


class _Projection:
    """M = Σ fixed numbers · ∂L/∂leaf, as a function of the leaves and of the gradient sent back."""

    def __init__(self, call: Call, sent: Sent) -> None:
        self.call, self.sent = call, sent
        generator = torch.Generator().manual_seed(19)
        self._fixed = [signed(leaf.value, generator) for leaf in call.leaves]
        self.slope = 0.0
        self._size = 0.0

    def points(self) -> list[tuple[str, Tensor]]:
        """The tensors that M depends on, each with its name."""
        leaves = [(leaf.name, leaf.value) for leaf in self.call.leaves]
        one = len(self.sent.weights) == 1
        names = ["grad_output"] if one else [f"the gradient of {n}" for n in self.sent.names]
        return [*leaves, *zip(names, self.sent.weights, strict=True)]

    def _gradients(self, values: Sequence[Tensor], weights: list[Tensor]) -> tuple[Run, list]:
        run = self.call.run(values)
        leaves = [leaf for leaf in run.leaves if leaf.requires_grad]
        found = torch.autograd.grad(
            self.sent.outputs(run), leaves, weights, allow_unused=True, create_graph=True
        )
        return run, list(found)

    def derivatives(self) -> list[Tensor | None]:
        """The derivative of M with respect to each point; None where M does not depend on it."""
        weights = [w.clone().requires_grad_() for w in self.sent.weights]
        run, found = self._gradients(self.call.values(), weights)
        pairs = [(f, g) for f, g in zip(self._fixed, found, strict=True) if g is not None]
        total = sum(((f * g).sum() for f, g in pairs), torch.zeros(()))
        self._size = sum((f * g).abs().sum().item() for f, g in pairs)
        if not total.requires_grad:
            return [None] * (len(run.leaves) + len(weights))
        return list(torch.autograd.grad(total, [*run.leaves, *weights], allow_unused=True))

    def agrees(
        self, i: int, direction: Tensor, mine: float, found: Tensor | None, noise: Noise
    ) -> bool:
        """Whether ``mine`` is the derivative of M along ``direction`` from point ``i``."""

        def projected(by: float) -> float:
            values, weights = self.call.values(), list(self.sent.weights)
            if i < len(values):
                values[i] = values[i] + by * direction
            else:
                weights[i - len(values)] = weights[i - len(values)] + by * direction
            each = self.sent.gradients(self.call.run(values), [w.clone() for w in weights])
            return sum(
                (f * g).sum().item()
                for f, g in zip(self._fixed, each, strict=True)
                if g is not None
            )

        size = 0.0 if found is None else (found * direction).abs().sum().item()
        floor = 10 * noise.relative * self._size / noise.step
        allowed = 10 * noise.tolerance * max(size, abs(mine)) + floor
        slope = slope_near(projected, mine, allowed, noise, self._size)
        if not slope.agrees(mine, 10 * noise.tolerance, allowed):
            for scale in (1e-4, 1e-8):  # for functions of numbers as small as this
                near = slope_at(projected, noise, scale, self._size)
                if near.agrees(mine, 10 * noise.tolerance, allowed):
                    return True
        self.slope = slope.value
        return slope.agrees(mine, 10 * noise.tolerance, allowed)
