"""``python -m cnnexp.train``: train one network, or with ``-m`` every combination of a sweep.

``run=<folder>`` or ``run=latest`` goes on with a run that was stopped, or extends one that is done.

Everything is composed and checked before Hydra is handed the command, so that a mistake costs one
message and leaves nothing behind. torch and lightning are imported only once there is something to
check or to run: ``--help`` and ``--cfg job`` answer at once.

Exit codes: 0 done, 1 a run failed, 2 the command or the config cannot work, 130 stopped by Ctrl-C,
143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import version
from hydra._internal.utils import _run_hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cnnexp.config import Composer, ConfigError, conf_dir, plain_config
from cnnexp.config.arguments import key_of, quoted, read_arguments
from cnnexp.config.command import run_command
from cnnexp.config.dry_run import end_dry_run, is_dry_run, refuse_dry_run, scratch_folder
from cnnexp.config.hydra_settings import (
    check_shown,
    folder_of,
    for_all,
    for_sweep,
    is_param,
    own_run_dir,
    sweep_overrides,
)
from cnnexp.config.interpolation import blamed
from cnnexp.config.resolvers import register_resolvers
from cnnexp.config.resumption import check_overrides, check_resumable
from cnnexp.config.selection import run_to_resume
from cnnexp.config.targets import allowed_prefixes
from cnnexp.runs import RunFolder, claim_run_folder, config_hash, place
from cnnexp.sweeps import Job, Ledger, log_to
from cnnexp.sweeps import run_job as run
from cnnexp.sweeps.hydra import check_settings, prepare
from cnnexp.sweeps.processes import warm_up
from cnnexp.sweeps.sweepers import known_jobs

if TYPE_CHECKING:
    from cnnexp.training import TrainingJob

__all__ = ["main", "run_job"]

log = logging.getLogger(__name__)

_MANY = 20  # jobs that take some seconds to check


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    logging.raiseExceptions = (
        False  # a log line that a full disk has no room for is no reason to stop
    )
    register_resolvers()
    run_command("cnnexp.train", lambda: _main(*read_arguments(sys.argv[1:])))


def _main(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> int:
    composer = Composer(flags.config_name or "train", flags.config_path, flags.config_dir)
    informs = flags.help or flags.hydra_help or flags.info is not None or flags.shell_completion
    if informs or flags.cfg is not None:
        if flags.overrides and not flags.shell_completion:
            composer.compose(flags.overrides)
        if flags.resolve or flags.package is not None:
            check_shown(composer.compose(flags.overrides), flags)
        return _hand_to_hydra(parser, flags)
    if flags.multirun or composer.sweeps(flags.overrides):
        return _sweep(parser, flags, composer)
    flags.run = True
    for override in flags.overrides:
        if key_of(override) in ("sweep", "hydra/sweeper", "hydra/launcher") or is_param(override):
            raise ConfigError(f"{override}: is for sweeps: python -m cnnexp.train -m {override} …")
    resumed = run_to_resume(flags.overrides)
    if resumed is not None:
        flags.config_name, flags.config_dir = "config", str(resumed.path.resolve())
        flags.overrides = [o for o in flags.overrides if not o.startswith("run=")]
        check_overrides(flags.overrides, composer.groups())
        composer = Composer(flags.config_name, flags.config_path, flags.config_dir)
    given = flags.overrides
    config = composer.compose([*for_all(), *given])
    plain = plain_config(config)
    job = _checked(config, plain, given)
    if resumed is not None:
        check_resumable(resumed, plain, job.data.images.checksum)
    if own_run_dir(config):
        folder_of(config, "run")
    if config.get("validate_only"):
        print("checked: this run can start")
        return 0
    folder = resumed or _agreed_folder(config, job)
    flags.overrides = [*for_all(), *given, "hydra.mode=RUN", quoted("hydra.run.dir", folder)]
    here = place()
    if here is not None and here.rank > 0:  # the first of them writes train.log
        flags.overrides.append("hydra/job_logging=none")
    try:
        _hand_to_hydra(parser, flags)
    finally:
        folder.remove_if_empty()
    return end_dry_run(folder) if is_dry_run(plain) else _exit_code([folder])


def _sweep(parser: argparse.ArgumentParser, flags: argparse.Namespace, composer: Composer) -> int:
    given = composer.with_params(sweep_overrides(flags.overrides))
    of_hydra = for_sweep(composer.whole(given))
    flags.overrides = [*for_all(), *of_hydra, *given, "hydra.mode=MULTIRUN"]
    flags.run, flags.multirun = False, True
    jobs = composer.jobs(flags.overrides)
    whole = composer.compose(jobs.overrides[0])
    check_settings(whole.hydra)
    known = jobs.overrides if jobs.complete else known_jobs(whole.hydra, jobs)
    launcher = whole.hydra.runtime.choices["hydra/launcher"]
    if launcher == "local":
        warm_up()  # imports while the jobs are checked
    if len(known) > _MANY:
        print(f"checking {len(known)} jobs", flush=True)
    sweep = Path(folder_of(whole, "sweep"))
    folders: dict[str, RunFolder] = {}
    checksums: list[tuple[Sequence[str], Mapping[str, Any], str]] = []
    for overrides in known:
        config = composer.compose(overrides)
        plain = plain_config(config)
        refuse_dry_run(plain)
        if (job := config_hash(plain)) in folders:
            continue
        folders[job] = RunFolder(sweep / job)
        checked = _checked(config, plain, given, launcher == "slurm")
        checksums.append((overrides, plain, checked.data.images.checksum))
    if len(folders) < len(known):
        different = _count(len(folders), "different job")
        print(f"{len(known)} combinations of values make {different}: what is the same runs once")
    if any(config.get("validate_only") for _, config, _ in checksums):
        all_of_them = "" if jobs.complete else " that are known before the sweep starts"
        print(f"checked: {_count(len(folders), 'job')}{all_of_them} can start")
        return 0
    _make(sweep, "hydra.sweep.dir")
    for overrides, plain, data in checksums:
        prepare([o for o in overrides if not o.startswith("hydra")], plain, data)
    Ledger(sweep).begin(sys.argv[1:])
    flags.overrides.append(quoted("hydra.sweep.dir", sweep))  # one, whatever the jobs are called
    _hand_to_hydra(parser, flags)
    return _exit_code(list(folders.values())) if jobs.complete else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _hand_to_hydra(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> int:
    """Run the command as ``hydra.main`` does, which would read ``sys.argv`` instead of ``flags``."""
    version.setbase("1.3")
    _run_hydra(
        args=flags,
        args_parser=parser,
        task_function=run_job,
        config_path=str(conf_dir()),
        config_name="train",
    )
    return 0


def _checked(
    composed: DictConfig,
    config: Mapping[str, Any],
    overrides: Sequence[str],
    elsewhere: bool = False,
) -> TrainingJob:
    """The job of ``config``, every part of which was made once; to run here, or ``elsewhere``.

    Args:
        composed: From which ``config`` was resolved.
        config: In plain types.
        overrides: Of the command line.
        elsewhere: It is to run on other machines.

    Raises:
        ConfigError: Something in it cannot work, or its data is not to be had.
        DataFileError: A data file is damaged.
    """
    from cnnexp.config.accelerator import check_nodes
    from cnnexp.config.build import build_job, check_job
    from cnnexp.data import DataUnavailableError
    from cnnexp.training import ALONE, connect_ranks

    extra = allowed_prefixes(overrides)
    try:
        job = build_job(config, extra, elsewhere=elsewhere)
    except ConfigError as error:
        raise blamed(error, composed) from error
    if not elsewhere:
        check_nodes(job.parallel)
    ranks = ALONE if place() is None else connect_ranks(job.parallel)
    if not ranks.first:
        ranks.from_first(None)  # which loads, and maybe downloads, the data before the others
    try:
        check_job(job, extra)
    except DataUnavailableError as error:
        raise ConfigError(str(error)) from error
    if ranks.first:
        ranks.from_first(None)
    return job


def _agreed_folder(config: DictConfig, job: TrainingJob) -> RunFolder:
    """The run's folder, which is one for all processes that torchrun or srun started."""
    from cnnexp.training import connect_ranks

    if place() is None:
        return _run_folder(config)
    ranks = connect_ranks(job.parallel)
    own = str(_run_folder(config)) if ranks.first else ""
    return RunFolder(ranks.from_first(own))


def _run_folder(config: DictConfig) -> RunFolder:
    """A new folder for the run, or the one that hydra.run.dir names, if no run is in it."""
    if is_dry_run(config):
        return scratch_folder(named=own_run_dir(config))
    if own_run_dir(config):
        folder = RunFolder(folder_of(config, "run"))
        if folder.status.exists() or folder.config.exists():
            raise ConfigError(f"hydra.run.dir={folder}: there is a run in it; name another folder")
        _make(folder.path, "hydra.run.dir")
        return folder
    parent = Path(str(config.output_dir)) / "train" / str(config.name)
    _make(parent, "output_dir")
    return claim_run_folder(parent)


def _make(folder: Path, key: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{key}: cannot make {folder}: {error.strerror}") from error


def _exit_code(folders: Sequence[RunFolder]) -> int:
    return 0 if all(folder.read_status().get("state") == "done" for folder in folders) else 1


def run_job(cfg: DictConfig) -> float | None:
    """One job, in the folder that Hydra chose; what goes wrong is told by its status.json.

    Args:
        cfg: The composed config, without Hydra's node.

    Returns:
        The best validation accuracy (for sweepers that search), None if there is none.
    """
    register_resolvers()  # a launcher may have started this process
    hydra = HydraConfig.get()
    here = place()
    if here is not None and here.rank > 0:
        log_to(None)
    job = Job(
        plain_config(cfg),
        str(_relative(hydra.runtime.output_dir)),
        allowed_prefixes(hydra.overrides.task),
    )
    return run(job, progress_bar=sys.stderr.isatty())


def _relative(path: str) -> Path:
    """``path`` as seen from here, if it lies below."""
    try:
        return Path(path).relative_to(Path.cwd())
    except ValueError:
        return Path(path)


if __name__ == "__main__":
    from cnnexp.train import main as _main_by_name  # so that launchers can pickle run_job by name

    _main_by_name()
