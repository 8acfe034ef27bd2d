"""The command ``python -m cnnexp.train -m``: check every job of a sweep, then run them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.arguments import key_of, quoted
from cnnexp.config.compose import conf_dir
from cnnexp.config.dry_run import refuse_dry_run
from cnnexp.config.hydra_internals import hand_to_hydra
from cnnexp.config.hydra_settings import folder_of, for_all, for_sweep, sweep_overrides
from cnnexp.config.resumption import check_not_of_other_data
from cnnexp.execution.checking import checked_job
from cnnexp.execution.folders import exit_code, make_folder
from cnnexp.execution.processes import warm_up
from cnnexp.runs import RunFolder, config_hash
from cnnexp.sweeps.hydra import check_settings, prepare
from cnnexp.sweeps.ledger import Ledger
from cnnexp.sweeps.sweepers import known_jobs

# Its overrides, its config, the checksum of its data.
_Job = tuple[Sequence[str], Mapping[str, Any], str]
_MANY = 20  # checking this many jobs takes some seconds


def run_sweep(
    parser: argparse.ArgumentParser,
    flags: argparse.Namespace,
    composer: Composer,
    task: Callable[[Any], Any],
) -> int:
    """Check every job that is known before the sweep starts, then pass the sweep to Hydra.

    Args:
        parser: The command's parser.
        flags: The flags that it read.
        composer: The composer of the command's config.
        task: The function that a launcher other than cnnexp's calls for each job.

    Returns:
        The exit code.

    Raises:
        ConfigError: A job, or the sweep, cannot work.
    """
    given = composer.with_params(sweep_overrides(flags.overrides))
    of_hydra = for_sweep(composer.whole(given))
    flags.overrides = [*for_all(), *of_hydra, *given, "hydra.mode=MULTIRUN"]
    flags.run, flags.multirun = False, True
    jobs = composer.jobs(flags.overrides)
    whole = composer.compose(jobs.overrides[0])
    check_settings(whole.hydra)
    _refuse_chosen_fold(jobs.swept)
    known = jobs.overrides if jobs.complete else known_jobs(whole.hydra, jobs)
    launcher = whole.hydra.runtime.choices["hydra/launcher"]
    if launcher == "local":
        warm_up()  # the server imports while the jobs are checked
    if len(known) > _MANY:
        print(f"checking {len(known)} jobs", flush=True)
    sweep = Path(folder_of(whole, "sweep"))
    folders, checked = _checked(known, composer, given, sweep, launcher == "slurm")
    if len(folders) < len(known):
        different = _count(len(folders), "different job")
        print(f"{len(known)} combinations of values make {different}: what is the same runs once")
    if any(config.get("validate_only") for _, config, _ in checked):
        all_of_them = "" if jobs.complete else " that are known before the sweep starts"
        print(f"checked: {_count(len(folders), 'job')}{all_of_them} can start")
        return 0
    make_folder(sweep, "hydra.sweep.dir")
    for overrides, plain, data in checked:
        prepare([o for o in overrides if not o.startswith("hydra")], plain, data)
    Ledger(sweep).begin(sys.argv[1:])
    flags.overrides.append(quoted("hydra.sweep.dir", sweep))  # one folder for all jobs
    hand_to_hydra(parser, flags, conf_dir(), task)
    return exit_code(list(folders.values())) if jobs.complete else 0


def _checked(
    known: Sequence[Sequence[str]],
    composer: Composer,
    given: Sequence[str],
    sweep: Path,
    elsewhere: bool,
) -> tuple[dict[str, RunFolder], list[_Job]]:
    """The folders of the different ones of the jobs ``known``, and these, each checked.

    ``elsewhere``: they run on other machines. What stands in for a data set is said, once.
    """
    folders: dict[str, RunFolder] = {}
    jobs: list[_Job] = []
    notices: set[str] = set()
    for overrides in known:
        config = composer.compose(overrides)
        plain = plain_config(config)
        refuse_dry_run(plain)
        if (job := config_hash(plain)) in folders:
            continue
        folders[job] = RunFolder(sweep / job)
        images = checked_job(config, plain, given, elsewhere).data.images
        check_not_of_other_data(folders[job], images.name, images.checksum)
        jobs.append((overrides, plain, images.checksum))
        if images.notice and images.notice not in notices:
            notices.add(images.notice)
            print(images.notice, flush=True)
    return folders, jobs


def _refuse_chosen_fold(swept: Sequence[str]) -> None:
    """Refuse folds that a sweeper would choose among; ``swept``: what is left to it."""
    for override in swept:
        if key_of(override) == "data.fold":
            raise ConfigError(
                f"{override}: a sweeper that chooses would choose the fold with the easiest images; search "
                f"on one split, then cross-validate what it found by a sweep without hydra/sweeper"
            )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
