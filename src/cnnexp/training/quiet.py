"""Let Lightning speak only of what a run is asked for."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

# By which its callbacks speak: each by its module's, or all by one whose records say from which file.
_OF_CALLBACKS = ("lightning.pytorch.callbacks", "lightning.pytorch.utilities.rank_zero")
_OF_LIGHTNING = ("lightning.pytorch", "lightning.fabric")

# True here by design: batches are gathered from one tensor, so loader workers would only cost.
_EXPECTED_WARNINGS = (
    ".*does not have many workers which may be a bottleneck.*",
    ".*is smaller than the logging interval Trainer.*",
    ".*your dataloader is not resumable.*",  # its order is a function of seed and epoch
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # what is logged is every rank's
    ".*The `srun` command is available on your system but is not used.*",  # SLURM need not be meant
    ".*Grad strides do not match bucket view strides.*",  # of kernels with one input channel
    ".*Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",  # diagnostics=off
    ".*The PyTorch Profiler default schedule will be overridden.*",  # a run may be that short
    ".*params to be frozen already exist within another group.*",  # norms, which train all along
    ".*module\\(s\\) in eval mode at the start of training.*",  # frozen normalisations
    ".*checkpoints.callbacks exists and is not empty.*",  # those of a run that is resumed
    ".*When using the `ThroughputMonitor`, you need to define a `flops_per_batch`.*",
    ".*overriding `LightningModule.optimizer_{step,zero_grad}`.*",  # max-norm is a step's affair
    ".*isinstance\\(treespec, LeafSpec\\).*",  # lightning 2.6 on torch 2.14, its own affair
)


class _HandOn(logging.Handler):
    """Let cnnexp's own logger say what a callback says, and what is a warning."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on, or drop."""
        where = record.pathname.replace("\\", "/")
        if "/callbacks/" in where or record.levelno >= logging.WARNING:
            log.handle(record)


@contextmanager
def _levels() -> Iterator[None]:
    """Within it, Lightning's loggers let warnings pass alone, and those of callbacks hand on to cnnexp's."""
    handler = _HandOn()
    before = []
    for name in (*_OF_CALLBACKS, *_OF_LIGHTNING):
        logger, heard = logging.getLogger(name), name in _OF_CALLBACKS
        before.append((logger, logger.level, logger.propagate))
        logger.setLevel(logging.INFO if heard else logging.WARNING)
        if heard:
            logger.propagate = False
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def _one_line_of_a_thread(arguments: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread; what goes wrong there is raised at the next scalar as well."""
    name = arguments.thread.name if arguments.thread else "a thread"
    log.warning("%s ended: %s", name, arguments.exc_value)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep back what Lightning says of itself and of what is as it should be.

    What its callbacks say is handed on: somebody has asked for them.
    """
    before, threading.excepthook = threading.excepthook, _one_line_of_a_thread
    try:
        with _levels(), warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        threading.excepthook = before
