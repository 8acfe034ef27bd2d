"""The settings of a training that its diagnosis looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cnnexp.diagnostics import TracedLayer
from cnnexp.regularization import taking_part
from cnnexp.training.training_job import TrainingJob


def setting_facts(job: TrainingJob) -> dict[str, Any]:
    """The settings by name, in plain types.

    Returns:
        ``batch_size``; ``penalties``: the strength of each penalty that has one; ``clip_norm``: the norm
        at which the gradient is clipped, or None; ``scheduled``: whether the learning rate changes;
        ``private``: whether nothing may be told of single images; ``lr``: the configured learning rate,
        or None; ``keys``: the keys that model, optimiser and regularisation have, or None if unknown.
    """
    strengths = {
        each.name: float(strength)
        for each in taking_part(job.regularizers, "penalty")
        if (strength := getattr(each, "strength", None)) is not None
    }
    clips = [getattr(each, "norm", None) for each in taking_part(job.regularizers, "gradients")]
    norms = [float(norm) for norm in clips if isinstance(norm, (int, float))]
    return {
        "batch_size": job.data.batch_size,
        "penalties": strengths,
        "clip_norm": min(norms, default=None),
        "scheduled": job.scheduler is not None,
        "private": job.privacy.private,
        "lr": _number(job.config.get("optimizer"), "lr"),
        "keys": _keys(job.config) if "model" in job.config else None,
    }


def optimizer_facts(
    optimizer: Optimizer, layers: list[TracedLayer], network: nn.Module
) -> dict[str, Any]:
    """``lr`` and ``weight_decay``, the greatest of the parameter groups, and ``left_out``: the names of
    layers that should train and are not among its parameters.
    """
    groups = optimizer.param_groups
    given = {id(p) for group in groups for p in group["params"]}
    mine = any(id(p) in given for p in network.parameters())
    return {
        "lr": max((_number(group, "lr") or 0.0 for group in groups), default=0.0),
        "weight_decay": max(
            (_number(group, "weight_decay") or 0.0 for group in groups), default=0.0
        ),
        "left_out": [
            layer.name
            for layer in layers
            if mine and layer.parameter.requires_grad and id(layer.parameter) not in given
        ],
    }


def _keys(config: Mapping[str, Any]) -> list[str]:
    keys = [f"{part}.{key}" for part in ("model", "optimizer") for key in config.get(part, {})]
    methods = config.get("regularization", {}).items()
    return keys + [f"regularization.{name}.{key}" for name, each in methods for key in each]


def _number(values: Any, name: str) -> float | None:
    found = values.get(name) if isinstance(values, dict) else None
    return float(found) if isinstance(found, (int, float)) else None
