"""The common part of cnnexp's Hydra launchers and sweepers: from overrides to jobs of the ledger,
and back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from hydra.core.utils import JobReturn
from hydra.core.utils import JobStatus as HydraJobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from cnnexp.commandline import code_of
from cnnexp.config import ConfigError, plain_config
from cnnexp.config.targets import allowed_prefixes
from cnnexp.execution.job import Job
from cnnexp.suggestions import did_you_mean
from cnnexp.sweeps.comparison import CompareSettings
from cnnexp.sweeps.launcher import LauncherSettings, LocalLauncher, Task
from cnnexp.sweeps.ledger import Ledger
from cnnexp.sweeps.search import SearchSettings
from cnnexp.sweeps.slurm import SlurmLauncher, SlurmSettings
from cnnexp.sweeps.view import View

REPORT = "cnnexp.sweeps.trial:report_of"  # the function that lets a job report to its study

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Settings = TypeVar("_Settings")

_prepared: dict[tuple[str, ...], tuple[dict[str, Any], str | None]] = {}


def prepare(overrides: Sequence[str], config: Mapping[str, Any], data: str | None = None) -> None:
    """Keep the config that was composed to check a job, so that it is composed once only.

    Args:
        overrides: The job's overrides, without Hydra's own.
        config: The config that they make.
        data: The checksum of its data, if it is known.
    """
    _prepared[tuple(overrides)] = dict(config), data


def prepared(overrides: Sequence[str]) -> Mapping[str, Any] | None:
    """The config kept by :func:`prepare` for a job that has not been launched yet; None if there is none."""
    found = _prepared.get(tuple(overrides))
    return found[0] if found else None


def tasks(
    context: HydraContext, sweep: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> tuple[Ledger, list[Task]]:
    """Enter the jobs into the ledger; return it and their tasks."""
    ledger = Ledger(str(sweep.hydra.sweep.dir))
    made = []
    for overrides in job_overrides:
        config, data = _prepared.pop(tuple(overrides), (None, None))
        if config is None:
            config = plain_config(context.config_loader.load_sweep_config(sweep, list(overrides)))
        job = ledger.add(config, overrides)
        entry = ledger.entry(job)
        again = config.get("sweep", {}).get("retry") == "failed" and entry.state == "failed"
        made.append(
            Task(
                job,
                Job(config, str(ledger.folder(job)), allowed_prefixes(overrides), report=REPORT),
                retry=str(entry.status.get("time")) if again else None,
                data=data,
            )
        )
    return ledger, made


def in_one_line(action: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Wrap ``action`` so that the user gets one line for an error, where Hydra would show a traceback."""

    @wraps(action)
    def called(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        results: list[_Result] = []

        def run() -> int:
            results.append(action(*arguments, **options))
            return 0

        if code := code_of("cnnexp.train", run):
            raise SystemExit(code)
        return results[0]

    return called


@in_one_line
def launch(
    kind: str,
    context: HydraContext,
    sweep: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    settings: Mapping[str, Any],
) -> list[JobReturn]:
    """Run the jobs with the launcher ``kind``: ``LocalLauncher`` or ``SlurmLauncher``.

    Overrides that make the same job, as those of ``seed=1,1`` do, run once.

    Returns:
        The results for sweepers, which raise a job's error: a failed job has no value, and no error.
    """
    own = typed(_OURS[kind], "hydra.launcher", settings)
    ledger, made = tasks(context, sweep, job_overrides)
    different = list({task.id: task for task in made}.values())
    if isinstance(own, SlurmSettings):
        entries = SlurmLauncher(ledger, own, View()).run(different)
    else:
        assert isinstance(own, LauncherSettings)
        entries = LocalLauncher(ledger, own, View()).run(different)
    ended = {entry.id: entry for entry in entries}
    results = []
    for task, overrides in zip(made, job_overrides, strict=True):
        done = ended[task.id].state == "done"
        returned = JobReturn(overrides=list(overrides), status=HydraJobStatus.COMPLETED)
        returned.return_value = (
            ledger.folder(task.id).read_result().get("val/acc") if done else None
        )
        results.append(returned)
    return results


_OURS: Mapping[str, type] = {
    "LocalLauncher": LauncherSettings,
    "SlurmLauncher": SlurmSettings,
    "OptunaSweeper": SearchSettings,
    "CompareSweeper": CompareSettings,
}


def check_settings(hydra: DictConfig) -> None:
    """Check the settings of launcher and sweeper, where these are cnnexp's.

    Raises:
        ConfigError: A setting is unknown, or has a value that is not allowed.
    """
    most = hydra.sweeper.get("max_batch_size")
    if most is not None and not (isinstance(most, int) and most >= 1):
        raise ConfigError(
            f"hydra.sweeper.max_batch_size={most}: must be a whole number, at least 1, or null"
        )
    if str(hydra.launcher._target_).rpartition(".")[2] in _OURS:
        _check_jobs(hydra.job)
    for part in ("launcher", "sweeper"):
        node = hydra[part]
        if kind := _OURS.get(str(node._target_).rpartition(".")[2]):
            typed(kind, f"hydra.{part}", node)


def _check_jobs(job: DictConfig) -> None:
    """Refuse options of ``hydra.job`` that cnnexp's launchers do not support."""
    if job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true: jobs stay in the folder of the command, where paths mean the same for all"
        )
    for name in ("env_set", "env_copy"):
        if job[name]:
            raise ConfigError(
                f"hydra.job.{name}={job[name]}: jobs have the environment of the command; set variables in "
                f"front of it, as in NAME=value python -m cnnexp.train -m …"
            )


def typed(kind: type[_Settings], part: str, given: Mapping[Any, Any]) -> _Settings:
    """Turn ``given``, the ``part`` of a config, into its dataclass ``kind``.

    Raises:
        ConfigError: There is no such setting, or it cannot have this value.
    """
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    plain = {}
    for key, value in given.items():
        if key == "_target_":
            continue
        if key not in known:
            raise ConfigError(f"{part}.{key}: there is no such setting.{did_you_mean(key, known)}")
        plain[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return kind(**plain)
