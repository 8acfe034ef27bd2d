"""Regularisers, one method a file: pure functions and thin classes."""

from cnnexp.regularization.adaptive_clip import AdaptiveClip
from cnnexp.regularization.elastic_net import ElasticNet
from cnnexp.regularization.l1 import L1, l1_penalty
from cnnexp.regularization.l2 import L2, l2_penalty
from cnnexp.regularization.max_norm import MaxNorm
from cnnexp.regularization.mixing import CutMix, MixUp, mix
from cnnexp.regularization.penalty import Penalty, penalised_weights

__all__ = [
    "L1",
    "L2",
    "AdaptiveClip",
    "CutMix",
    "ElasticNet",
    "MaxNorm",
    "MixUp",
    "Penalty",
    "l1_penalty",
    "l2_penalty",
    "mix",
    "penalised_weights",
]
