"""Optimisers that torch lacks, parameter groups, and schedules that know the training's length."""

from cnnexp.optim.gradient_descent import GradientDescent
from cnnexp.optim.lbfgs import LBFGS
from cnnexp.optim.muon import MuonWithAdamW
from cnnexp.optim.param_groups import NO_DECAY, freeze, param_groups
from cnnexp.optim.sam import SAM
from cnnexp.optim.schedules import (
    cosine,
    linear,
    multistep,
    onecycle,
    plateau,
    step,
    warmup_cosine,
    wsd,
)

__all__ = [
    "LBFGS",
    "NO_DECAY",
    "SAM",
    "GradientDescent",
    "MuonWithAdamW",
    "cosine",
    "freeze",
    "linear",
    "multistep",
    "onecycle",
    "param_groups",
    "plateau",
    "step",
    "warmup_cosine",
    "wsd",
]
