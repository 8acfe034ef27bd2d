"""Lightning callbacks: what is logged, drawn and kept during a training."""

from cnnexp.training.callbacks.measure import LearningRate, Throughput
from cnnexp.training.callbacks.pictures import FirstLayerFilters, TestPictures
from cnnexp.training.callbacks.progress import (
    EpochHistory,
    ProgressBar,
    RunStatus,
    lines_above_bar,
)

__all__ = [
    "EpochHistory",
    "FirstLayerFilters",
    "LearningRate",
    "ProgressBar",
    "RunStatus",
    "TestPictures",
    "Throughput",
    "lines_above_bar",
]
