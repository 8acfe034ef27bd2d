"""``python -m cnnexp.train``: train one network, or with ``-m`` every combination of a sweep.

``run=<folder>`` or ``run=latest`` resumes a run that was stopped, or extends one that is done.

Everything is composed, once, and checked before anything runs, so that a mistake costs one message
and leaves nothing behind. torch and lightning are imported only once there is something to check or to
run: ``--help`` and ``--cfg job`` answer at once.

Exit codes: 0 done, 1 a run failed, 2 the command or the config cannot work, 130 stopped by Ctrl-C,
143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cnnexp.commandline import run_command
from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.arguments import key_of, read_arguments
from cnnexp.config.compose import conf_dir
from cnnexp.config.dry_run import end_dry_run, is_dry_run
from cnnexp.config.help import help_text
from cnnexp.config.hydra_internals import hand_to_hydra, run_composed
from cnnexp.config.hydra_settings import check_shown, folder_of, for_all, is_param, own_run_dir
from cnnexp.config.init_from import in_full
from cnnexp.config.resolvers import register_resolvers
from cnnexp.config.resumption import check_overrides, check_resumable
from cnnexp.config.selection import run_to_resume
from cnnexp.config.targets import allowed_prefixes
from cnnexp.execution import Job, log_to
from cnnexp.execution import run_job as run
from cnnexp.execution.checking import checked_job
from cnnexp.execution.folders import agreed_folder, exit_code
from cnnexp.runs import RunFolder, process_rank

if TYPE_CHECKING:
    from cnnexp.training import TrainingJob


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its code."""
    # a log line that a full disk has no room for is no reason to stop
    logging.raiseExceptions = False
    register_resolvers()
    run_command("cnnexp.train", lambda: _main(*read_arguments(sys.argv[1:])))


def _main(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> int:
    flags.overrides = in_full(flags.overrides)
    composer = Composer(flags.config_name or "train", flags.config_path, flags.config_dir)
    informs = flags.help or flags.hydra_help or flags.info is not None or flags.shell_completion
    if informs or flags.cfg is not None:
        if flags.overrides and not flags.shell_completion:
            composer.compose(flags.overrides)
        if flags.resolve or flags.package is not None:
            check_shown(composer.compose(flags.overrides), flags)
        if flags.help:
            config = composer.compose(flags.overrides)
            print(help_text(config, composer.folders, resolve=flags.resolve))
            return 0
        hand_to_hydra(parser, flags, conf_dir(), run_job)
        return 0
    given = flags.overrides
    for_sweeps = [o for o in given if _is_for_sweeps(o)]
    if flags.multirun or (for_sweeps and composer.sweeps(given)):
        return _run_sweep(parser, flags, composer)
    if for_sweeps:
        raise ConfigError(
            f"{for_sweeps[0]}: is for sweeps: python -m cnnexp.train -m {for_sweeps[0]} …"
        )
    resumed = run_to_resume(given)
    if resumed is not None:
        given = [o for o in given if not o.startswith("run=")]
        check_overrides(given, composer.groups())
        composer = Composer("config", flags.config_path, str(resumed.path.resolve()))
    try:
        config = composer.compose([*for_all(), *given, *_of_a_later_rank()])
    except ConfigError:
        if resumed is not None or not composer.sweeps(given):
            raise
        config = None  # the values of a sweep, which hydra.mode has begun
    if config is None or (resumed is None and config.hydra.mode == RunMode.MULTIRUN):
        return _run_sweep(parser, flags, composer)
    return _run_one(config, given, resumed)


def _is_for_sweeps(override: str) -> bool:
    key = key_of(override)
    return key in ("sweep", "hydra/sweeper", "hydra/launcher") or is_param(override)


def _of_a_later_rank() -> list[str]:
    """The first of the processes that torchrun started writes train.log."""
    here = process_rank()
    return [] if here is None or here.rank == 0 else ["hydra/job_logging=none"]


def _run_sweep(
    parser: argparse.ArgumentParser, flags: argparse.Namespace, composer: Composer
) -> int:
    from cnnexp.sweeps.command import run_sweep

    return run_sweep(parser, flags, composer, run_job)


def _run_one(config: DictConfig, given: Sequence[str], resumed: RunFolder | None) -> int:
    """Check ``config``, which was composed once, and train what was checked."""
    plain = plain_config(config)
    begun = resumed is not None and resumed.last_checkpoint.exists()
    job = checked_job(config, plain, given, resumed=begun)
    if resumed is not None:
        check_resumable(resumed, plain, job.data.images.checksum, job.regularizers)
    if own_run_dir(config):
        folder_of(config, "run")
    if config.get("validate_only"):
        print("checked: this run can start")
        return 0
    folder = resumed or agreed_folder(config, job)
    # with variables of its own the job may find other devices and data than the check
    checked = None if config.hydra.job.env_set else job
    try:
        run_composed(config, str(folder), partial(run_job, checked=checked))
    finally:
        folder.remove_if_empty()
    return end_dry_run(folder) if is_dry_run(plain) else exit_code([folder])


def run_job(cfg: DictConfig, checked: TrainingJob | None = None) -> float | None:
    """One job, in the folder that Hydra chose; what goes wrong is told by its status.json.

    Args:
        cfg: The composed config, without Hydra's node.
        checked: What it describes, if that is built and checked already.

    Returns:
        The best validation accuracy (for sweepers that search), None if there is none.
    """
    register_resolvers()  # a launcher may have started this process
    hydra = HydraConfig.get()
    here = process_rank()
    if here is not None and here.rank > 0:
        log_to(None)
    folder = _relative(hydra.runtime.output_dir)
    allowed = allowed_prefixes(hydra.overrides.task)
    config = plain_config(cfg) if checked is None else checked.config
    job = Job(config, str(folder), allowed, report=_report(RunFolder(folder)))
    return run(job, checked, progress_bar=sys.stderr.isatty())


def _report(folder: RunFolder) -> str | None:
    """How the run in ``folder`` reports, where it is a trial of a search."""
    if not folder.trial.exists():
        return None
    from cnnexp.sweeps.hydra import REPORT

    return REPORT


def _relative(path: str) -> Path:
    """``path`` as seen from here, if it lies below."""
    try:
        return Path(path).relative_to(Path.cwd())
    except ValueError:
        return Path(path)


if __name__ == "__main__":
    from cnnexp.train import main as _main_by_name  # so that launchers can pickle run_job by name

    _main_by_name()
