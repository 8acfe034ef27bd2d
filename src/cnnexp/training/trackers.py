"""Runs in experiment trackers: Weights & Biases, offline by default, and MLflow, in a file by default.

Each gets the run's name, its sweep or name as the group, the whole config, every logged scalar and, at the
end, the figures of result.json and the small files of the run folder. Nothing goes over a network, and nobody
is asked to log in, unless the config says so. A run that is resumed continues its entry.
"""

from __future__ import annotations

import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from secrets import token_hex
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from cnnexp.environment import variable
from cnnexp.runs import RunFolder
from cnnexp.runs.files import leaves, read_json
from cnnexp.runs.sweep import is_sweep, names_of, sweep_jobs

_LONGEST = 128  # characters of a name that both show whole
_FIGURES = (".png", ".svg", ".html")
# what wandb says on the terminal, and errors of its own that it sends over the network, offline too
_QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
_FOLDER_TAG = "cnnexp.folder"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run before it begins.

    Attributes:
        folder: The run folder.
        called: The config's ``name``.
    """

    folder: RunFolder
    called: str

    @property
    def group(self) -> str:
        """What its runs are compared within: the sweep, or the runs of its name."""
        above = self.folder.path.parent
        return above.name if is_sweep(above) else self.called

    @property
    def name(self) -> str:
        """What a sweep's job differs in from the others, else its overrides; of a single run its name and
        its folder's.
        """
        above = self.folder.path.parent
        named = names_of(sweep_jobs(above)) if is_sweep(above) else {}
        if (name := named.get(self.folder.path.name, "-")) != "-":
            return name[:_LONGEST]
        kept = [
            str(each)
            for each in read_json(self.folder.job).get("overrides", ())
            if not str(each).lstrip("+~").startswith(("sweep.", "hydra", "logger"))
        ]
        return (" ".join(kept) or f"{self.called} {self.folder.path.name}")[:_LONGEST]

    @property
    def resumed(self) -> bool:
        """Whether an earlier attempt has begun it."""
        return self.folder.last_checkpoint.exists()

    def files(self) -> list[Path]:
        """The small files of the run folder that are there, and its figures."""
        own = self.folder
        small = (own.config, own.provenance, own.result, own.evidence, own.non_finite, own.log)
        figures = (file for file in sorted(own.path.iterdir()) if file.suffix in _FIGURES)
        return [file for file in (*small, *figures) if file.is_file()]


class Tracker(ABC):
    """A logger that keeps more of a run than its scalars."""

    @classmethod
    def unready(cls, node: Mapping[str, Any]) -> str:  # noqa: ARG003
        """Why the tracker that the config ``node`` describes cannot begin; "" if it can."""
        return ""

    @abstractmethod
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Keep the run's whole config."""

    @abstractmethod
    def log_result(self, result: Mapping[str, Any]) -> None:
        """Keep the numbers of ``result``, and the run's files; the run is done."""


def end_loggers(loggers: Sequence[Logger], result: Mapping[str, Any]) -> None:
    """End what each of ``loggers`` has of a run that is done, and whose result.json is written."""
    for logger in loggers:
        if isinstance(logger, Tracker):
            logger.log_result(result)
        else:
            logger.finalize("success")


class Wandb(Tracker, WandbLogger):
    """A run in Weights & Biases; offline it lies in ``<run folder>/wandb``, for ``wandb sync`` to upload.

    Args:
        tracked: The run.
        project: The project that it is entered in.
        entity: The team or user; None for the account's own.
        offline: Whether it stays on this machine.
        tags: Of the run.
    """

    def __init__(
        self,
        tracked: TrackedRun,
        project: str = "cnnexp",
        entity: str | None = None,
        offline: bool = True,
        tags: Sequence[str] = (),
    ) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import wandb  # pyright: ignore[reportMissingImports]

        self._tracked = tracked
        quiet = wandb.Settings(silent=True, console="off", mode="offline" if offline else "online")
        wandb.setup(settings=quiet)
        super().__init__(
            name=tracked.name,
            save_dir=tracked.folder.path,
            version=_begun_before(tracked) or token_hex(4),
            project=project,
            offline=offline,
            group=tracked.group,
            job_type="train",
            entity=entity,
            tags=list(tags),
            settings=quiet,
        )

    @classmethod
    def unready(cls, node: Mapping[str, Any]) -> str:
        """That there is no key for the server, which would be asked for on the terminal."""
        if node.get("offline", True) or variable("WANDB_API_KEY"):
            return ""
        try:
            known = any("wandb" in host for host in netrc().hosts)
        except (OSError, NetrcParseError):
            known = False
        return (
            ""
            if known
            else "needs a key for the server: run wandb login, or set WANDB_API_KEY; offline=true keeps "
            "the run on this machine"
        )

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Keep the run's whole config, nested as it is."""
        self.log_hyperparams({**config, "run_folder": str(self._tracked.folder)})

    @rank_zero_only
    def log_result(self, result: Mapping[str, Any]) -> None:
        """Keep the numbers of ``result`` in the summary, and the files; the run is finished."""
        run = self.experiment
        run.summary.update({f"result/{name}": value for name, value in _numbers(result).items()})
        place = (
            Path(run.dir) / "cnnexp"
        )  # beside files of wandb's own, one of which is a config.yaml
        place.mkdir(exist_ok=True)
        for file in self._tracked.files():
            run.save(shutil.copy(file, place), base_path=run.dir, policy="now")
        run.finish()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish a run that failed; what is done after a success is up to :meth:`log_result`."""
        import wandb  # pyright: ignore[reportMissingImports]

        super().finalize(status)
        if status != "success" and wandb.run is not None and wandb.run.id == self.version:
            wandb.finish(exit_code=1)


def _begun_before(tracked: TrackedRun) -> str | None:
    """The id of the entry of a run that is resumed: the newest folder's, ``…run-<time>-<id>``."""
    folders = sorted(tracked.folder.path.glob("wandb/*run-*-*")) if tracked.resumed else []
    return folders[-1].name.rpartition("-")[2] if folders else None


class MLflow(Tracker, MLFlowLogger):
    """A run in MLflow; in a database file its artifacts lie beside it, in ``mlartifacts``.

    Args:
        tracked: The run.
        tracking_uri: The database, ``sqlite:///<file>``, or a server.
        experiment: The experiment that it is entered in; None for its group.
        tags: Of the run.
    """

    def __init__(
        self,
        tracked: TrackedRun,
        tracking_uri: str,
        experiment: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # it sets its own logging up
        import mlflow  # noqa: F401  # pyright: ignore[reportMissingImports]

        for name in ("alembic", "mlflow"):  # which tell of each table of a new database
            logging.getLogger(name).setLevel(logging.WARNING)
        self._tracked, found = tracked, None
        tracking_uri, artifacts = _places(tracking_uri)
        name = experiment or tracked.group
        if getattr(rank_zero_only, "rank", 0) == 0:
            found = _entry(tracked, tracking_uri, name, artifacts)
        super().__init__(
            experiment_name=name,
            run_name=tracked.name,
            tracking_uri=tracking_uri,
            tags={**(tags or {}), _FOLDER_TAG: str(tracked.folder.path.resolve())},
            run_id=found,
            artifact_location=artifacts,
        )

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Keep the run's whole config, by dotted keys."""
        self.log_hyperparams({key: value for key, value in leaves(config) if value is not None})

    @rank_zero_only
    def log_result(self, result: Mapping[str, Any]) -> None:
        """Keep the numbers of ``result`` as metrics, and the files as artifacts."""
        self.log_metrics({f"result/{name}": value for name, value in _numbers(result).items()})
        for file in self._tracked.files():
            self.experiment.log_artifact(self.run_id, str(file))
        self.finalize("success")


def _places(tracking_uri: str) -> tuple[str, str | None]:
    """The database by its whole path, and the folder beside it for artifacts; None where a server decides.

    MLflow keeps a connection by its URI, which must mean the same file wherever the process goes.
    """
    kind, _, name = tracking_uri.partition(":///")
    if kind != "sqlite":
        return tracking_uri, None
    file = Path(name).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{file}", (file.parent / "mlartifacts").as_uri()


def _entry(
    tracked: TrackedRun, tracking_uri: str, experiment: str, artifacts: str | None
) -> str | None:
    """Make sure that the experiment is there; return the id of the entry of a run that is resumed."""
    from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    client = MlflowClient(tracking_uri)
    if client.get_experiment_by_name(experiment) is None:
        try:
            client.create_experiment(experiment, artifact_location=artifacts)
        except MlflowException as error:  # another job of the sweep was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    if not tracked.resumed:
        return None
    known = client.get_experiment_by_name(experiment)
    place = str(tracked.folder.path.resolve()).replace("'", r"\'")
    found = client.search_runs(
        [known.experiment_id] if known else [], f"tags.`{_FOLDER_TAG}` = '{place}'", max_results=1
    )
    return found[0].info.run_id if found else None


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in result.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
