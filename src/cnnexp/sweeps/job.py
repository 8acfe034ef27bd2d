"""One training, given by its resolved config, in its folder."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cnnexp.config import conf_dir
from cnnexp.config.resumption import trained_on
from cnnexp.runs import RunFolder, place

if TYPE_CHECKING:
    from cnnexp.training import TrainingJob

__all__ = ["Job", "log_to", "run_job"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What another process needs to run a training.

    Attributes:
        config: Resolved, plain types.
        folder: The run folder.
        allowed: Prefixes of ``_target_`` beyond cnnexp's own list.
        command: That the user gave; kept in provenance.json.
    """

    config: Mapping[str, Any]
    folder: str
    allowed: Sequence[str] = ()
    command: Sequence[str] = field(default_factory=lambda: list(sys.orig_argv))

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """See :meth:`to_json`."""
        return cls(**json.loads(line))


def run_job(job: Job, *, progress_bar: bool = False) -> float | None:
    """Train in this process, or with ``accelerator.devices`` in as many as it says.

    A job that is done is not run again, one that was interrupted goes on. Torch and lightning are
    imported here.

    Returns:
        The best validation accuracy, None if there is none; status.json says how it ended.

    Raises:
        SystemExit: A signal stopped it; the code says which.
    """
    from cnnexp.config.build import build_job
    from cnnexp.sweeps.ranks import run_ranks
    from cnnexp.sweeps.trial import report_of
    from cnnexp.training import (
        TrainingPruned,
        TrainingStopped,
        connect_ranks,
        failure_reason,
        run_training,
    )

    folder = RunFolder(job.folder)
    first = True
    try:
        training = build_job(job.config, job.allowed)
        parallel = training.parallel
        if parallel is not None and place() is None:
            if not _is_done(folder, training):
                first = False  # the ranks write, and say, how it ends
                run_ranks(job, parallel)
            return folder.read_result().get("val/acc")
        ranks = connect_ranks(parallel)
        first = ranks.first
        if ranks.from_first(first and _is_done(folder, training)):
            log.info("%s is done already", folder)
            return folder.read_result().get("val/acc")
        again = ranks.from_first(first and _goes_on(folder, training))
        if reports := report_of(folder, ranks):
            own = training.callbacks
            training.callbacks = lambda: [*own(), *reports]
        result = run_training(
            training, folder, progress_bar=progress_bar, resume=again, ranks=ranks
        )
        ranks.part()
        return result["val/acc"]
    except TrainingStopped as stop:
        if first:
            log.warning("%s; status and checkpoints are in %s", stop, folder)
        sys.exit(stop.code)
    except TrainingPruned as end:
        log.info("%s", end)
        return None
    except Exception as error:  # the traceback goes to train.log only
        reason = failure_reason(error)
        if first and folder.path.is_dir() and not folder.status.exists():  # before the training
            folder.write_status("failed", error=reason)
        log.error("failed: %s (more in %s)", reason, folder.log, exc_info=True)
        return None


def _goes_on(folder: RunFolder, training: TrainingJob) -> bool:
    """Whether there is something to go on from; what began on other data is cleared away."""
    again = folder.status.exists()
    if again and not trained_on(folder, training.data.images.checksum):
        folder.clear()
        return False
    return again


def _is_done(folder: RunFolder, training: TrainingJob) -> bool:
    """Whether ``folder`` holds this job's result: digits that stood in for MNIST are not MNIST's."""
    done = folder.read_status().get("state") == "done"
    longer = done and folder.read_config().get("trainer") != training.config.get("trainer")
    return done and not longer and trained_on(folder, training.data.images.checksum)


def log_to(folder: Path | None, *, terminal: bool = True) -> None:
    """Log as ``cnnexp.train`` does: on the ``terminal``, and to train.log in ``folder`` if there is one."""
    text = (conf_dir() / "hydra" / "job_logging" / "cnnexp.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    handlers = settings["handlers"]
    if folder is None:
        del handlers["file"]
        settings["root"]["level"] = "ERROR"
    else:
        handlers["file"]["filename"] = str(folder / "train.log")
    if not terminal:
        del handlers["console"]
    settings["root"]["handlers"] = list(handlers)
    logging.config.dictConfig(settings)
