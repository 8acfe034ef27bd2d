"""Use the network of a run: evaluate it, classify pictures, export it."""

from cnnexp.inference.evaluation import Evaluation, evaluate
from cnnexp.inference.exporting import FORMATS, MissingExtraError, export
from cnnexp.inference.loading import load_run
from cnnexp.inference.network import TrainedNetwork, TrainedNetworkError, load_trained
from cnnexp.inference.prediction import Prediction, picture_files, predict, stated_range
from cnnexp.inference.run_data import data_of_run
from cnnexp.inference.settings import Settings, read_settings

__all__ = [
    "FORMATS",
    "Evaluation",
    "MissingExtraError",
    "Prediction",
    "Settings",
    "TrainedNetwork",
    "TrainedNetworkError",
    "data_of_run",
    "evaluate",
    "export",
    "load_run",
    "load_trained",
    "picture_files",
    "predict",
    "read_settings",
    "stated_range",
]
