"""What Hydra's launchers of cnnexp share: from overrides to jobs of the ledger, and back to results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from cnnexp.config import ConfigError, plain_config
from cnnexp.config.command import code_of
from cnnexp.config.errors import did_you_mean
from cnnexp.config.targets import allowed_prefixes
from cnnexp.runs import config_hash
from cnnexp.sweeps.job import Job
from cnnexp.sweeps.launcher import LauncherSettings, LocalLauncher, Task
from cnnexp.sweeps.ledger import Entry, Ledger
from cnnexp.sweeps.search import Search, SearchSettings, open_study, parse, search_space
from cnnexp.sweeps.slurm import SlurmLauncher, SlurmSettings
from cnnexp.sweeps.view import View

__all__ = ["check_settings", "launch", "prepare", "search", "tasks"]

_Result = TypeVar("_Result")
_Settings = TypeVar("_Settings")

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


def launch(
    kind: str,
    context: HydraContext,
    sweep: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    settings: Mapping[str, Any],
) -> list[JobReturn]:
    """Run the jobs by the launcher ``kind``: ``LocalLauncher`` or ``SlurmLauncher``."""

    def run() -> list[Entry]:
        own = _typed(_OURS[kind][1], "hydra.launcher", settings)
        ledger, made = tasks(context, sweep, job_overrides)
        if isinstance(own, SlurmSettings):
            return SlurmLauncher(ledger, own, View()).run(made)
        assert isinstance(own, LauncherSettings)
        return LocalLauncher(ledger, own, View()).run(made)

    return _returned(_in_one_line(run), job_overrides)


def search(
    context: HydraContext,
    sweep: DictConfig,
    launcher: Launcher,
    arguments: Sequence[str],
    given: Mapping[str, Any],
) -> None:
    """Search by Optuna for the best of what ``arguments`` leave open; see ``Search``."""
    _in_one_line(lambda: _search(context, sweep, launcher, arguments, given))


def _search(
    context: HydraContext,
    sweep: DictConfig,
    launcher: Launcher,
    arguments: Sequence[str],
    given: Mapping[str, Any],
) -> None:
    settings = _typed(SearchSettings, "hydra.sweeper", given)
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

    def launch_batch(batch: Sequence[Sequence[str]]) -> list[Entry]:
        jobs = [config_hash(_prepared[tuple(own)][0]) for own in batch]
        launcher.launch([list(own) for own in batch], initial_job_idx=0)
        return [ledger.entry(job) for job in jobs]

    study = open_study(ledger.path, settings, space)
    Search(study, settings, space, fixed, job_of, ledger, launch_batch).run()


_OURS: Mapping[str, tuple[str, type]] = {
    "LocalLauncher": ("launcher", LauncherSettings),
    "SlurmLauncher": ("launcher", SlurmSettings),
    "OptunaSweeper": ("sweeper", SearchSettings),
}


def check_settings(hydra: DictConfig) -> None:
    """See whether launcher and sweeper, where they are cnnexp's, can have these settings.

    Raises:
        ConfigError: One cannot.
    """
    for part in ("launcher", "sweeper"):
        node = hydra[part]
        name = str(node._target_).rpartition(".")[2]
        if name in _OURS and _OURS[name][0] == part:
            _typed(
                _OURS[name][1], f"hydra.{part}", {k: v for k, v in node.items() if k != "_target_"}
            )


def _typed(kind: type[_Settings], part: str, given: Mapping[Any, Any]) -> _Settings:
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    for key in given:
        if key not in known:
            raise ConfigError(f"{part}.{key}: there is no such setting.{did_you_mean(key, known)}")
    plain = {
        k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in given.items()
    }
    return kind(**plain)


def _in_one_line(action: Callable[[], _Result]) -> _Result:
    """What ``action`` gives; Hydra would show a traceback of what it raises, the user gets a line."""
    results: list[_Result] = []

    def run() -> int:
        results.append(action())
        return 0

    if code := code_of("cnnexp.train", run):
        raise SystemExit(code)
    return results[0]


def _returned(entries: Sequence[Entry], job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """For sweepers, which raise what a job raised: one that failed has no value, and no error."""
    made = []
    for entry, overrides in zip(entries, job_overrides, strict=True):
        value = entry.folder.read_result().get("val/acc") if entry.state == "done" else None
        returned = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
        returned.return_value = value
        made.append(returned)
    return made
