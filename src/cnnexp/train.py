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
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cnnexp.config import Composer, ConfigError, conf_dir, plain_config
from cnnexp.config.command import run_command
from cnnexp.config.resolvers import register_resolvers
from cnnexp.config.resumption import check_resumable
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

# Hydra's own settings: here and not in conf/train.yaml, so that they hold for any root config, the
# config.yaml of a run folder among them. Those of the command line come after them.
_HYDRA = (
    "hydra.output_subdir=null",  # the run folder has its own config.yaml
    "hydra/job_logging=cnnexp",
    "hydra/hydra_logging=cnnexp",
)
_HYDRA_SWEEP = (
    "hydra/launcher=local",
    "hydra.sweep.dir=${output_dir}/sweeps/${sweep.name}",
    "hydra.sweep.subdir=${job_id:}",
)

_MANY = 20  # jobs that take some seconds to check


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    logging.raiseExceptions = (
        False  # a log line that a full disk has no room for is no reason to stop
    )
    register_resolvers()
    parser = get_args_parser()
    flags = parser.parse_args()
    run_command("cnnexp.train", lambda: _main(parser, flags))


def _main(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> int:
    if flags.resolve and flags.cfg is None and not flags.help:
        raise ConfigError("--resolve goes with --cfg or --help")
    if flags.config_path is not None:  # Hydra would look beside this file
        flags.config_path = str(Path(flags.config_path).resolve())
    composer = Composer(flags.config_name or "train", flags.config_path, flags.config_dir)
    informs = flags.help or flags.hydra_help or flags.info is not None or flags.shell_completion
    if informs or flags.cfg is not None:
        if flags.overrides and not flags.shell_completion:
            composer.compose(flags.overrides)
        return _hand_to_hydra(parser, flags)
    if flags.multirun or "hydra.mode=MULTIRUN" in flags.overrides:
        return _sweep(parser, flags, composer)
    for override in flags.overrides:
        if override.startswith(("sweep=", "hydra/sweeper=", "hydra/launcher=")):
            raise ConfigError(f"{override}: is for sweeps: python -m cnnexp.train -m {override} …")
    resumed = run_to_resume(flags.overrides)
    if resumed is not None:
        flags.config_name, flags.config_dir = "config", str(resumed.path.resolve())
        flags.overrides = [o for o in flags.overrides if not o.startswith("run=")]
        composer = Composer(flags.config_name, flags.config_path, flags.config_dir)
    given = flags.overrides
    config = composer.compose([*_HYDRA, *given])
    plain = plain_config(config)
    job = _checked(plain, given)
    if resumed is not None:
        check_resumable(resumed, plain, job.data.images.checksum)
    if config.get("validate_only"):
        print("checked: this run can start")
        return 0
    folder = resumed or _agreed_folder(config, given, job)
    quoted = str(folder).replace("'", r"\'")
    flags.overrides = [*_HYDRA, *given, f"hydra.run.dir='{quoted}'"]
    here = place()
    if here is not None and here.rank > 0:  # the first of them writes train.log
        flags.overrides.append("hydra/job_logging=none")
    try:
        _hand_to_hydra(parser, flags)
    finally:
        folder.remove_if_empty()
    return _exit_code([folder])


def _sweep(parser: argparse.ArgumentParser, flags: argparse.Namespace, composer: Composer) -> int:
    given = flags.overrides
    flags.overrides = [*_HYDRA, *_HYDRA_SWEEP, *given]
    jobs = composer.jobs(flags.overrides)
    whole = composer.compose(jobs.overrides[0])
    check_settings(whole.hydra)
    known = jobs.overrides if jobs.complete else known_jobs(whole.hydra, jobs)
    launchers = [o for o in flags.overrides if o.startswith("hydra/launcher=")]
    if launchers[-1] == "hydra/launcher=local":
        warm_up()  # imports while the jobs are checked
    if len(known) > _MANY:
        print(f"checking {len(known)} jobs", flush=True)
    configs, folders = [], []
    for overrides in known:
        config = composer.compose(overrides)
        configs.append(plain_config(config))
        folders.append(RunFolder(Path(config.hydra.sweep.dir) / config_hash(configs[-1])))
    elsewhere = launchers[-1] == "hydra/launcher=slurm"
    checksums = [_checked(plain, given, elsewhere).data.images.checksum for plain in configs]
    if any(config.get("validate_only") for config in configs):
        all_of_them = "" if jobs.complete else " that are known before the sweep starts"
        print(f"checked: {len(configs)} jobs{all_of_them} can start")
        return 0
    for folder in folders:
        _make(folder.path.parent, "hydra.sweep.dir")
    for overrides, plain, data in zip(known, configs, checksums, strict=True):
        prepare([o for o in overrides if not o.startswith("hydra")], plain, data)
    Ledger(folders[0].path.parent).begin(sys.argv[1:])
    _hand_to_hydra(parser, flags)
    return _exit_code(folders) if jobs.complete else 0


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
    config: Mapping[str, Any], overrides: Sequence[str], elsewhere: bool = False
) -> TrainingJob:
    """The job of ``config``, every part of which was made once; to run here, or ``elsewhere``.

    Raises:
        ConfigError: Something in it cannot work, or its data is not to be had.
        DataFileError: A data file is damaged.
    """
    from cnnexp.config.accelerator import check_nodes
    from cnnexp.config.build import build_job, check_job
    from cnnexp.data import DataUnavailableError
    from cnnexp.training import ALONE, connect_ranks

    extra = allowed_prefixes(overrides)
    job = build_job(config, extra, elsewhere=elsewhere)
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


def _agreed_folder(config: DictConfig, overrides: Sequence[str], job: TrainingJob) -> RunFolder:
    """The run's folder, which is one for all processes that torchrun or srun started."""
    from cnnexp.training import connect_ranks

    if place() is None:
        return _run_folder(config, overrides)
    ranks = connect_ranks(job.parallel)
    own = str(_run_folder(config, overrides)) if ranks.first else ""
    return RunFolder(ranks.from_first(own))


def _run_folder(config: DictConfig, overrides: Sequence[str]) -> RunFolder:
    """A new folder for the run, or the one that the command names, if no run is in it."""
    for override in overrides:
        if override.startswith("hydra.run.dir="):
            folder = RunFolder(str(config.hydra.run.dir))
            if folder.status.exists() or folder.config.exists():
                raise ConfigError(
                    f"hydra.run.dir={folder}: there is a run in it; name another folder"
                )
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
