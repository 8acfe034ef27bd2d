"""Train a network: LightningModule, callbacks, checkpoints, Trainer."""

from cnnexp.training.assemble import make_classifier
from cnnexp.training.classifier import Classifier, OptimizerFactory, SchedulerFactory
from cnnexp.training.failures import failure_reason
from cnnexp.training.non_finite import NonFiniteError, OnNaN
from cnnexp.training.privacy_account import PrivacyAccount, privacy_account
from cnnexp.training.quiet import quiet_lightning
from cnnexp.training.ranks import ALONE, Parallelism, Ranks, connect_ranks, leave_failure
from cnnexp.training.resume.files import (
    CheckpointError,
    read_checkpoint,
    read_own_checkpoint,
    write_checkpoint,
)
from cnnexp.training.run import run_training
from cnnexp.training.starting_weights import StartingWeights, StartingWeightsError
from cnnexp.training.steps_per_call import StepsPerCall
from cnnexp.training.stopping import TrainingPruned, TrainingStopped
from cnnexp.training.training_job import LossFactory, MetricsFactory, TrainingJob, mode_of

__all__ = [
    "ALONE",
    "CheckpointError",
    "Classifier",
    "LossFactory",
    "MetricsFactory",
    "NonFiniteError",
    "OnNaN",
    "OptimizerFactory",
    "Parallelism",
    "PrivacyAccount",
    "Ranks",
    "SchedulerFactory",
    "StartingWeights",
    "StartingWeightsError",
    "StepsPerCall",
    "TrainingJob",
    "TrainingPruned",
    "TrainingStopped",
    "connect_ranks",
    "failure_reason",
    "leave_failure",
    "make_classifier",
    "mode_of",
    "privacy_account",
    "quiet_lightning",
    "read_checkpoint",
    "read_own_checkpoint",
    "run_training",
    "write_checkpoint",
]
