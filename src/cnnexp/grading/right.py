"""The right outputs and gradients of the cases, by cnnexp's own ops in float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.grading.cases import Case
from cnnexp.grading.contract import CONTRACTS


def solve(cases: Iterable[Case]) -> list[Case]:
    """The cases with their ``grad_output`` and right results.

    Small cases in which several gradients are right are left out: they say nothing about a mistake.
    """
    rng = np.random.default_rng(7)
    return [case for case in cases if not (case.small and _ambiguous(case)) and _solved(case, rng)]


def _solved(case: Case, rng: np.random.Generator) -> bool:
    leaves = leaves_of(case)
    output = run(case.op, leaves, case.settings)
    shape = tuple(output.shape)
    drawn = rng.integers(1, 4, shape).astype(float) if case.small else rng.standard_normal(shape)
    if case.op == "cross_entropy":
        drawn = np.asarray(1.0 if case.small else 0.5 + abs(float(drawn)))
    case.grad_output = np.asarray(drawn)
    names = CONTRACTS[case.op].gradients
    grads = torch.autograd.grad(output, [leaves[n] for n in names], torch.as_tensor(drawn))
    case.right = {"y": output.detach().numpy()}
    case.right |= {name: grad.numpy() for name, grad in zip(names, grads, strict=True)}
    return True


def leaves_of(case: Case, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The tensors of a case; those of floating point require a gradient."""
    made = {name: torch.as_tensor(value) for name, value in case.tensors.items()}
    return {
        name: value.to(dtype).requires_grad_() if value.is_floating_point() else value
        for name, value in made.items()
    }


def run(op: str, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
    """The output of our own op for the tensors and settings of a case."""
    values = list(tensors.values())
    if op == "conv_relu_pool":
        x, w, b = values
        pool = ops.Pool("max", settings["pool_kernel"], settings["pool_stride"])
        return ops.conv_relu_pool(
            x, w, b, settings["stride"], settings["padding"], pool=pool, algorithm="direct"
        )
    if op == "batch_norm":
        x, gamma, beta = values
        return ops.batch_norm(
            x, None, None, gamma, beta, True, eps=settings["eps"], algorithm="direct"
        )
    return ops.get_op(op)(*values, **settings, algorithm="direct")


def _ambiguous(case: Case) -> bool:
    """Whether a winner of a pool is not the only one, or a z lies at the ReLU's kink."""
    if case.op != "conv_relu_pool":
        return False
    tensors = {name: torch.as_tensor(value) for name, value in case.tensors.items()}
    settings = {name: case.settings[name] for name in ("stride", "padding")}
    z = run("conv2d", tensors, settings | {"dilation": 1, "groups": 1})
    if (z == 0).any():
        return True
    k, s = case.settings["pool_kernel"], case.settings["pool_stride"]
    windows = z.unfold(2, k, s).unfold(3, k, s).flatten(4)
    return any(_tied(window) for window in windows.flatten(0, 3))


def _tied(window: Tensor) -> bool:
    most = window.max()
    return bool(most > 0 and (window == most).sum() > 1)
