"""What Hydra's launchers of cnnexp share: from overrides to jobs of the ledger, and back to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from cnnexp.config import plain_config
from cnnexp.config.targets import allowed_prefixes
from cnnexp.sweeps.job import Job
from cnnexp.sweeps.launcher import LauncherSettings, LocalLauncher, Task
from cnnexp.sweeps.ledger import Entry, Ledger
from cnnexp.sweeps.view import View

__all__ = ["launch_locally", "prepare", "tasks"]

_prepared: dict[tuple[str, ...], tuple[dict[str, Any], str]] = {}


def prepare(overrides: Sequence[str], config: Mapping[str, Any], data: str) -> None:
    """Keep what was found out about a job when it was checked, so that it is composed once.

    Args:
        overrides: Of the job, without Hydra's own.
        config: What they make.
        data: Checksum of its data.
    """
    _prepared[tuple(overrides)] = dict(config), data


def tasks(
    context: HydraContext, sweep: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> tuple[Ledger, list[Task]]:
    """Enter the jobs into the ledger."""
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
                Job(config, str(ledger.folder(job)), allowed_prefixes(overrides)),
                retry=str(entry.status.get("time")) if again else None,
                data=data,
            )
        )
    return ledger, made


def launch_locally(
    context: HydraContext,
    sweep: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    settings: Mapping[str, Any],
) -> list[JobReturn]:
    """Run the jobs on this machine; see ``LocalLauncher``."""
    ledger, made = tasks(context, sweep, job_overrides)
    entries = LocalLauncher(ledger, LauncherSettings(**_plain(settings)), View()).run(made)
    return [
        _returned(entry, overrides) for entry, overrides in zip(entries, job_overrides, strict=True)
    ]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for key, value in settings.items()
    }


def _returned(entry: Entry, overrides: Sequence[str]) -> JobReturn:
    """For sweepers, which raise what a job raised: one that failed has no value, and no error."""
    value = entry.folder.read_result().get("val/acc") if entry.state == "done" else None
    made = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    made.return_value = value
    return made
