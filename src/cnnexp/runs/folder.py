"""The run folder: the one place that knows which files a run consists of.

::

    config.yaml        the resolved config, plain YAML; enough to run again
    provenance.json    command, git commit, versions, seed, device, data set and its checksum
    status.json        state: running | done | failed | stopped; epoch, step, error
    metrics.csv        every logged scalar: epoch (from 1), step, name, value
    tensorboard/       event files
    checkpoints/       last.ckpt, previous.ckpt, best.ckpt
    result.json        final figures, written once, when the run is done
    evidence.json      what the verdict on the training is based on
    nonfinite.json     where a loss or gradient became infinite or NaN, if one did
    job.json           of a sweep's job: its overrides
    trial.json         of a search's job: which trial of the study it is
    train.log
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import yaml

from cnnexp.runs.files import (
    NO_ROOM,
    SCRATCH,
    overwrite_json,
    read_json,
    read_yaml,
    write_json,
    write_text,
)
from cnnexp.runs.logs import cut_logs, log_sizes
from cnnexp.runs.metrics import append_metrics, read_metrics

State = Literal["running", "done", "failed", "stopped", "pruned"]


class RunFiles:
    """Where one run's files are, and how they are removed.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.provenance = self.path / "provenance.json"
        self.status = self.path / "status.json"
        self.metrics = self.path / "metrics.csv"
        self.tensorboard = self.path / "tensorboard"
        self.profile = self.path / "profile"
        self.checkpoints = self.path / "checkpoints"
        self.best_checkpoint = self.checkpoints / "best.ckpt"  # of the epoch best by validation
        self.last_checkpoint = self.checkpoints / "last.ckpt"  # that a training is resumed from
        self.previous_checkpoint = self.checkpoints / "previous.ckpt"  # the last before that
        self.result = self.path / "result.json"
        self.evidence = self.path / "evidence.json"
        self.non_finite = self.path / "nonfinite.json"
        self.spent = self.path / "privacy.jsonl"
        self.job = self.path / "job.json"
        self.trial = self.path / "trial.json"
        self.log = self.path / "train.log"

    def __str__(self) -> str:
        return str(self.path)

    def files(self) -> list[Path]:
        """All that a run folder may consist of, there or not; folders before what is in them."""
        own = (self.config, self.provenance, self.status, self.metrics, self.result)
        folders = (self.tensorboard, self.checkpoints)
        inside = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
        return [
            *own,
            self.evidence,
            self.non_finite,
            self.spent,
            self.job,
            self.trial,
            self.log,
            *folders,
            *inside,
        ]

    def clear(self) -> None:
        """Remove what an earlier run left, except train.log, which is continued, and privacy.jsonl: what is
        spent stays spent.
        """
        own = (self.config, self.provenance, self.status, self.metrics, self.result, self.evidence)
        for file in own:
            file.unlink(missing_ok=True)
        for folder in (self.tensorboard, self.profile, self.checkpoints):
            shutil.rmtree(folder, ignore_errors=True)

    def remove_scratch(self) -> None:
        """Remove the files that a killed run was just writing."""
        for folder in (self.path, self.checkpoints):
            for file in folder.glob(f".*{SCRATCH}"):
                file.unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        """Remove the folder if nothing is in it."""
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


class RunFindings(RunFiles):
    """Read and write what was found out about the training."""

    def write_evidence(self, evidence: Mapping[str, Any]) -> None:
        """Write evidence.json, what the verdict on the training is based on."""
        write_json(self.evidence, evidence)

    def read_evidence(self) -> dict[str, Any]:
        """The content of evidence.json; empty if there is none."""
        return read_json(self.evidence)

    def write_non_finite(self, finding: Mapping[str, Any]) -> Path:
        """Write nonfinite.json, and return its path."""
        write_json(self.non_finite, finding)
        return self.non_finite

    def read_non_finite(self) -> dict[str, Any]:
        """The content of nonfinite.json; empty if there is none."""
        return read_json(self.non_finite)


class RunFolder(RunFindings):
    """Read and write one run's files; see :class:`RunFiles` for where they are."""

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config`` (plain types) to config.yaml."""
        write_text(self.config, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def read_config(self) -> dict[str, Any]:
        """The content of config.yaml; empty if there is none."""
        return read_yaml(self.config)

    def write_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Write provenance.json, see ``cnnexp.runs.collect_provenance``."""
        write_json(self.provenance, provenance)

    def read_provenance(self) -> dict[str, Any]:
        """The content of provenance.json; empty if there is none."""
        return read_json(self.provenance)

    def write_status(self, state: State, **details: Any) -> None:
        """Replace status.json by ``state``, the time and ``details`` (epoch, step, error …).

        Where there is no room for a second file, it is written into the one that is there.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = {"state": state, "time": now, **details}
        try:
            write_json(self.status, content)
        except OSError as error:
            if error.errno not in NO_ROOM or not self.status.exists():
                raise
            overwrite_json(self.status, content)

    def end_status(self, state: State, error: str, **details: Any) -> None:
        """Say from outside how a run ended that could not say so itself; how far it had come is kept."""
        left = ("state", "time", "error")
        kept = {key: value for key, value in self.read_status().items() if key not in left}
        self.write_status(state, **{**kept, **details}, error=error)

    def read_status(self) -> dict[str, Any]:
        """The content of status.json; empty if there is none."""
        return read_json(self.status)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json: the run is done."""
        write_json(self.result, result)

    def read_result(self) -> dict[str, Any]:
        """The content of result.json; empty if there is none."""
        return read_json(self.result)

    def append_metrics(self, metrics: Mapping[str, float], *, epoch: int | None, step: int) -> None:
        """Append one row a metric to metrics.csv, with a head line if the file is new.

        Args:
            metrics: By name.
            epoch: The one under way, counted from 1; after the training how many there were; or None.
            step: Of the optimiser, as the loggers get it.
        """
        append_metrics(self.metrics, metrics, epoch, step)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.csv as {epoch, step, name, value}; empty if there is none."""
        return read_metrics(self.metrics)

    def log_sizes(self) -> dict[str, int]:
        """How many bytes metrics.csv and each event file hold; for :meth:`cut_logs`."""
        return log_sizes(self.metrics, self.tensorboard)

    def cut_logs(self, sizes: Mapping[str, int]) -> list[str]:
        """Cut metrics.csv and the event files back to ``sizes``; the names of those that are shorter."""
        return cut_logs(self.metrics, self.tensorboard, sizes)


def claim_run_folder(parent: Path | str, now: datetime | None = None) -> RunFolder:
    """Make ``parent``/<YYYY-MM-DD_HH-MM-SS>[-n], a folder that no other run has or will get.

    Raises:
        OSError: The folder cannot be made.
    """
    stamp = (now or datetime.now()).strftime("%Y-%m-%d_%H-%M-%S")
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return RunFolder(path)
