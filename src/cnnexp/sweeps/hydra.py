"""What Hydra's launchers of cnnexp share: from overrides to jobs of the ledger, and back to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from cnnexp.config import ConfigError, plain_config
from cnnexp.config.targets import allowed_prefixes
from cnnexp.runs import config_hash
from cnnexp.sweeps.job import Job
from cnnexp.sweeps.launcher import LauncherSettings, LocalLauncher, Task
from cnnexp.sweeps.ledger import Entry, Ledger
from cnnexp.sweeps.view import View

__all__ = ["launch_locally", "launch_on_slurm", "prepare", "search", "tasks"]

_prepared: dict[tuple[str, ...], tuple[dict[str, Any], str | None]] = {}


def prepare(overrides: Sequence[str], config: Mapping[str, Any], data: str | None = None) -> None:
    """Keep what was found out about a job when it was checked, so that it is composed once.

    Args:
        overrides: Of the job, without Hydra's own.
        config: What they make.
        data: Checksum of its data, if it is known.
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
    return _returned(entries, job_overrides)


def launch_on_slurm(
    context: HydraContext,
    sweep: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    settings: Mapping[str, Any],
) -> list[JobReturn]:
    """Run the jobs on the cluster; see ``SlurmLauncher``."""
    from cnnexp.sweeps.slurm import SlurmLauncher, SlurmSettings

    ledger, made = tasks(context, sweep, job_overrides)
    entries = SlurmLauncher(ledger, SlurmSettings(**_plain(settings)), View()).run(made)
    return _returned(entries, job_overrides)


def search(
    context: HydraContext,
    sweep: DictConfig,
    launcher: Launcher,
    arguments: Sequence[str],
    given: Mapping[str, Any],
) -> None:
    """Search by Optuna for the best of what ``arguments`` leave open; see ``Search``."""
    from cnnexp.sweeps.search import Search, SearchSettings, open_study, parse, search_space

    settings = SearchSettings(**_plain(given))
    parser = OverridesParser.create(config_loader=context.config_loader)
    overrides = parser.parse_overrides(list(arguments))
    swept = [o for o in overrides if o.is_sweep_override()] + parse(settings.params)
    if not swept:
        raise ConfigError(
            "hydra/sweeper=optuna: nothing to search; add for example "
            "optimizer.lr=tag(log,interval(1e-4,1e-1)) or optimizer=adam,sgd"
        )
    fixed = [o.input_line or "" for o in overrides if not o.is_sweep_override()]
    space, ledger = search_space(swept), Ledger(str(sweep.hydra.sweep.dir))

    def config_of(own: Sequence[str]) -> dict[str, Any]:
        return plain_config(context.config_loader.load_sweep_config(sweep, list(own)))

    def job_of(own: Sequence[str]) -> str:
        config = config_of(own)
        prepare(own, config)
        return ledger.add(config, own)

    def launch(batch: Sequence[Sequence[str]]) -> list[Entry]:
        jobs = [config_hash(_prepared[tuple(own)][0]) for own in batch]
        launcher.launch([list(own) for own in batch], initial_job_idx=0)
        return [ledger.entry(job) for job in jobs]

    study = open_study(ledger.path, settings, space)
    Search(study, settings, space, fixed, job_of, ledger, launch).run()


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for key, value in settings.items()
    }


def _returned(entries: Sequence[Entry], job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """For sweepers, which raise what a job raised: one that failed has no value, and no error."""
    made = []
    for entry, overrides in zip(entries, job_overrides, strict=True):
        value = entry.folder.read_result().get("val/acc") if entry.state == "done" else None
        returned = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
        returned.return_value = value
        made.append(returned)
    return made
