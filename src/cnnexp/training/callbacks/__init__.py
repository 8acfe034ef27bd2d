"""Lightning callbacks: what is logged, drawn and kept during a training."""

from cnnexp.regularization import ExponentialAverage, StochasticWeightAverage, WeightAverage
from cnnexp.training.callbacks.after_test import TestPictures
from cnnexp.training.callbacks.diagnostics import Diagnostics
from cnnexp.training.callbacks.hardest import HardestImages
from cnnexp.training.callbacks.judge import Judge
from cnnexp.training.callbacks.measure import LearningRate, Throughput
from cnnexp.training.callbacks.non_finite_guard import NonFiniteGuard
from cnnexp.training.callbacks.pictures import FirstLayerFilters, TrainingPictures
from cnnexp.training.callbacks.privacy import PrivacyLog
from cnnexp.training.callbacks.progress import (
    EpochHistory,
    ProgressBar,
    RunStatus,
    lines_above_bar,
)
from cnnexp.training.callbacks.stock import at_home, needs_plain_kernels
from cnnexp.training.resume.callback import Checkpoints

__all__ = [
    "Checkpoints",
    "Diagnostics",
    "EpochHistory",
    "ExponentialAverage",
    "FirstLayerFilters",
    "HardestImages",
    "Judge",
    "LearningRate",
    "NonFiniteGuard",
    "PrivacyLog",
    "ProgressBar",
    "RunStatus",
    "StochasticWeightAverage",
    "TestPictures",
    "Throughput",
    "TrainingPictures",
    "WeightAverage",
    "at_home",
    "lines_above_bar",
    "needs_plain_kernels",
]
