"""Train a network: LightningModule, callbacks, checkpoints, Trainer."""

from cnnexp.training.classifier import Classifier, OptimizerFactory, SchedulerFactory
from cnnexp.training.job import TrainingJob, mode_of
from cnnexp.training.run import TrainingStopped, quiet_lightning, run_training

__all__ = [
    "Classifier",
    "OptimizerFactory",
    "SchedulerFactory",
    "TrainingJob",
    "TrainingStopped",
    "mode_of",
    "quiet_lightning",
    "run_training",
]
