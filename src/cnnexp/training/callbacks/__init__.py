"""Lightning callbacks: what is logged, drawn and kept during a training."""

from cnnexp.training.callbacks.measure import LearningRate, Throughput
from cnnexp.training.callbacks.pictures import FirstLayerFilters, TestPictures
from cnnexp.training.callbacks.progress import EpochHistory, RunStatus

__all__ = [
    "EpochHistory",
    "FirstLayerFilters",
    "LearningRate",
    "RunStatus",
    "TestPictures",
    "Throughput",
]
