"""Optimisers that torch lacks, parameter groups, and schedules that know the training's length."""

from cnnexp.optim.fused import has_gaps, keep_layouts
from cnnexp.optim.gradient_descent import GradientDescent
from cnnexp.optim.lbfgs import LBFGS
from cnnexp.optim.muon import MuonWithAdamW
from cnnexp.optim.normalized_muon import NormalizedMuon
from cnnexp.optim.param_groups import NO_DECAY, freeze, keep_frozen, param_groups
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
from cnnexp.optim.torchs import SGD, Adagrad, Adam, AdamW, with_less_python
from cnnexp.optim.traits import asks_again, needs_whole_weights, one_group, steps_by_all_images

__all__ = [
    "LBFGS",
    "NO_DECAY",
    "SAM",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "GradientDescent",
    "MuonWithAdamW",
    "NormalizedMuon",
    "asks_again",
    "cosine",
    "freeze",
    "has_gaps",
    "keep_frozen",
    "keep_layouts",
    "linear",
    "multistep",
    "needs_whole_weights",
    "one_group",
    "onecycle",
    "param_groups",
    "plateau",
    "step",
    "steps_by_all_images",
    "warmup_cosine",
    "with_less_python",
    "wsd",
]
