"""Train a network: LightningModule, callbacks, checkpoints, Trainer."""

from cnnexp.training.assemble import quiet_lightning
from cnnexp.training.checkpoints import CheckpointError, read_checkpoint, write_checkpoint
from cnnexp.training.classifier import Classifier, OptimizerFactory, SchedulerFactory
from cnnexp.training.job import TrainingJob, mode_of
from cnnexp.training.run import run_training
from cnnexp.training.stopping import TrainingStopped

__all__ = [
    "CheckpointError",
    "Classifier",
    "OptimizerFactory",
    "SchedulerFactory",
    "TrainingJob",
    "TrainingStopped",
    "mode_of",
    "quiet_lightning",
    "read_checkpoint",
    "run_training",
    "write_checkpoint",
]
