"""Regularisers, one method a file: its knobs, its method, its place in a training step.

A file that defines a dataclass derived from :class:`Regularizer` is all that a method needs to be known
under its name, beside a YAML file in ``conf/regularization``. The names below are there for programs that
import them.
"""

from collections.abc import Mapping

from cnnexp.regularization.clip import Clip, clip_units
from cnnexp.regularization.cutmix import CutMix
from cnnexp.regularization.discovery import find_regularizers
from cnnexp.regularization.early_stopping import EarlyStopping
from cnnexp.regularization.elastic_net import ElasticNet
from cnnexp.regularization.ema import EMA, ExponentialAverage
from cnnexp.regularization.l1 import L1, l1_penalty
from cnnexp.regularization.l2 import L2, l2_penalty
from cnnexp.regularization.label_smoothing import LabelSmoothing
from cnnexp.regularization.max_norm import MaxNorm
from cnnexp.regularization.mixing import mix
from cnnexp.regularization.mixup import MixUp
from cnnexp.regularization.random_elastic import RandomElastic
from cnnexp.regularization.random_erasing import RandomErasing
from cnnexp.regularization.random_flip import RandomFlip
from cnnexp.regularization.random_rotation import RandomRotation
from cnnexp.regularization.random_shift import RandomShift
from cnnexp.regularization.regularizer import EVENTS, Draws, Regularizer, takes_part, taking_part
from cnnexp.regularization.swa import SWA, StochasticWeightAverage
from cnnexp.regularization.weight_average import WeightAverage
from cnnexp.regularization.weights import penalised_weights

__all__ = [
    "EMA",
    "EVENTS",
    "L1",
    "L2",
    "REGULARIZERS",
    "SWA",
    "Clip",
    "CutMix",
    "Draws",
    "EarlyStopping",
    "ElasticNet",
    "ExponentialAverage",
    "LabelSmoothing",
    "MaxNorm",
    "MixUp",
    "RandomElastic",
    "RandomErasing",
    "RandomFlip",
    "RandomRotation",
    "RandomShift",
    "Regularizer",
    "StochasticWeightAverage",
    "WeightAverage",
    "clip_units",
    "find_regularizers",
    "l1_penalty",
    "l2_penalty",
    "mix",
    "penalised_weights",
    "takes_part",
    "taking_part",
]

#: Those of this package, by their names in the config.
REGULARIZERS: Mapping[str, type[Regularizer]] = find_regularizers(__path__, __name__)
