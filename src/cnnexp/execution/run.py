"""Carry out a job in this process, or in one process for each of its ranks."""

from __future__ import annotations

import logging
import pkgutil
import sys
from typing import TYPE_CHECKING

from cnnexp.config.errors import ConfigError
from cnnexp.config.resumption import check_not_of_other_data, trained_on
from cnnexp.execution.job import Job
from cnnexp.postponed import quick_imports
from cnnexp.runs import RunFolder, process_rank

if TYPE_CHECKING:
    from cnnexp.training import Parallelism, TrainingJob


log = logging.getLogger(__name__)


def run_job(
    job: Job, checked: TrainingJob | None = None, *, progress_bar: bool = False
) -> float | None:
    """Run a job in this process, or in one process per rank if it has several ``accelerator.devices``.

    A job that is done is not run again; one that was interrupted is resumed. What ``job`` describes may
    be built and ``checked`` already. Torch and lightning are imported here.

    Returns:
        The best validation accuracy, in [0, 1]; None if there is none. status.json says how it ended.

    Raises:
        SystemExit: A signal stopped it; the code says which.
    """
    with quick_imports():
        from cnnexp.config.build import build_job
        from cnnexp.training import (
            TrainingPruned,
            TrainingStopped,
            connect_ranks,
            failure_reason,
            run_training,
        )

    folder, first = RunFolder(job.folder), True
    try:
        training = checked or build_job(job.config, job.allowed)
        parallel = training.parallel
        if parallel is not None and process_rank() is None:
            if not _is_done(folder, training):
                first = False  # the ranks write, and say, how it ends
                _run_ranks(job, parallel, folder)
            return folder.read_result().get("val/acc")
        ranks = connect_ranks(parallel)
        first = ranks.first
        if ranks.from_first(first and _is_done(folder, training)):
            log.info("%s is done already", folder)
            return folder.read_result().get("val/acc")
        again = ranks.from_first(first and _goes_on(folder, training))
        if job.report is not None:
            own, more = training.callbacks, pkgutil.resolve_name(job.report)(folder, ranks)
            training.callbacks = lambda: [*own(), *more]
        result = run_training(
            training, folder, progress_bar=progress_bar, resume=again, ranks=ranks
        )
        ranks.part()
        return result.get("val/acc")
    except TrainingStopped as stop:
        if first:
            log.warning("%s; status and checkpoints are in %s", stop, folder)
        sys.exit(stop.code)
    except TrainingPruned as end:
        log.info("%s", end)
        return None
    except Exception as error:
        _say_failed(folder, failure_reason(error), first)
        return None


def _run_ranks(job: Job, parallel: Parallelism, folder: RunFolder) -> None:
    """Run the job's ranks; a stop that comes before they can write it down is written, and said, here."""
    from cnnexp.execution.ranks import run_ranks
    from cnnexp.training import TrainingStopped

    before = folder.read_status()
    try:
        run_ranks(job, parallel)
    except TrainingStopped as stop:
        if folder.read_status() == before:
            folder.end_status("stopped", str(stop))
            log.warning("%s; the status is in %s", stop, folder)
        raise


def _say_failed(folder: RunFolder, reason: str, first: bool) -> None:
    """Say why the exception that is being handled ended the run; its traceback goes to train.log only."""
    if first and folder.path.is_dir() and not folder.status.exists():  # before the training
        folder.write_status("failed", error=reason)
    log.error("failed: %s (more in %s)", reason, folder.log, exc_info=True)


def _goes_on(folder: RunFolder, training: TrainingJob) -> bool:
    """Whether there is a run to resume; one on data that stood in for these is cleared away.

    Raises:
        ConfigError: It began on other data; status.json says so, the rest stays as it was.
    """
    again, images = folder.status.exists(), training.data.images
    if again and not trained_on(folder, images.checksum):
        try:
            check_not_of_other_data(folder, images.name, images.checksum)
        except ConfigError as error:
            folder.end_status("failed", str(error))
            raise
        folder.clear()
        return False
    return again


def _is_done(folder: RunFolder, training: TrainingJob) -> bool:
    """Whether ``folder`` holds this job's result; a result on the stand-in digits is not one on MNIST."""
    done = folder.read_status().get("state") == "done"
    longer = done and folder.read_config().get("trainer") != training.config.get("trainer")
    return done and not longer and trained_on(folder, training.data.images.checksum)
