"""The functions behind cnnexp's Hydra sweepers: search, and fair comparison, with any launcher."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from cnnexp.config import ConfigError, Jobs, plain_config
from cnnexp.runs import config_hash
from cnnexp.runs.files import leaves
from cnnexp.sweeps.comparison import CompareSettings, compare_candidates, tuning_jobs
from cnnexp.sweeps.hydra import in_one_line, prepare, prepared, typed
from cnnexp.sweeps.launcher import LauncherSettings
from cnnexp.sweeps.ledger import JobStatus, Ledger
from cnnexp.sweeps.search import Search, SearchSettings, open_study
from cnnexp.sweeps.slurm import SlurmSettings
from cnnexp.sweeps.space import linear_over_decades, parse, search_space

log = logging.getLogger(__name__)

_ROUNDS = 4  # of trials that a search has at least, unless it is told otherwise


class SweepJobs:
    """The jobs of one sweep, given by their overrides.

    Args:
        context: Hydra's context.
        sweep: The config that was composed for the sweep as a whole.
        launcher: The launcher that runs the jobs.
    """

    def __init__(self, context: HydraContext, sweep: DictConfig, launcher: Launcher) -> None:
        self._context, self._sweep, self._launcher = context, sweep, launcher
        self.ledger = Ledger(str(sweep.hydra.sweep.dir))

    def parse(self, arguments: Sequence[str]) -> list[Override]:
        """Parse the overrides of the command line."""
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        return parser.parse_overrides(list(arguments))

    def add(self, own: Sequence[str]) -> str:
        """Enter a job into the ledger; return its id."""
        config = prepared(own)
        if config is None:
            config = self._composed(own)
            prepare(own, config)
        return self.ledger.add(config, own)

    def identity(self, own: Sequence[str]) -> str:
        """What identifies a job, which is not entered into the ledger."""
        return config_hash(prepared(own) or self._composed(own))

    def _composed(self, own: Sequence[str]) -> dict[str, Any]:
        return plain_config(self._context.config_loader.load_sweep_config(self._sweep, list(own)))

    def at_a_time(self) -> int:
        """How many jobs the launcher runs at a time; 1 where nobody knows."""
        node = self._sweep.hydra.launcher
        kind = str(node._target_).rpartition(".")[2]
        if kind == "LocalLauncher":
            return typed(LauncherSettings, "hydra.launcher", node).at_a_time
        if kind == "SlurmLauncher":
            return typed(SlurmSettings, "hydra.launcher", node).array_parallelism
        return 1

    def launch(self, batch: Sequence[Sequence[str]]) -> list[JobStatus]:
        """Run jobs that were added; return their entries at the end."""
        jobs = [config_hash(prepared(own) or {}) for own in batch]
        self._launcher.launch([list(own) for own in batch], initial_job_idx=0)
        return [self.ledger.entry(job) for job in jobs]


@in_one_line
def search(jobs: SweepJobs, arguments: Sequence[str], given: Mapping[str, Any]) -> None:
    """Search with Optuna for the best values of what ``arguments`` leave open; see ``Search``."""
    settings = typed(SearchSettings, "hydra.sweeper", given)
    overrides = jobs.parse(arguments)
    swept = [o for o in overrides if o.is_sweep_override()]
    own = {o.get_key_element() for o in overrides}  # the command line takes precedence
    params = {key: value for key, value in leaves(settings.params) if key and key not in own}
    swept += parse(params, "hydra.sweeper.params")
    if not swept:
        raise ConfigError(
            "hydra/sweeper=optuna: nothing to search; add for example "
            "optimizer.lr=tag(log,interval(1e-4,1e-1)) or optimizer=adam,sgd"
        )
    fixed = [o.input_line or "" for o in overrides if not o.is_sweep_override()]
    space = search_space(swept)
    for line in linear_over_decades(swept):
        log.warning("%s", line)
    at_once = settings.at_once
    if isinstance(at_once, str):  # a sampler that is told nothing in between draws at random
        at_once = min(jobs.at_a_time(), max(1, settings.n_trials // _ROUNDS))
    study = open_study(jobs.ledger.path, settings, space, jobs.identity(fixed))
    Search(study, settings, at_once, space, fixed, jobs.add, jobs.ledger, jobs.launch).run()


@in_one_line
def compare(jobs: SweepJobs, arguments: Sequence[str], given: Mapping[str, Any]) -> None:
    """Compare candidates, each tuned by the same number of trials; see ``compare_candidates``."""
    settings = typed(CompareSettings, "hydra.sweeper", given)
    compare_candidates(settings, arguments, jobs.add, jobs.ledger, jobs.launch)


def known_jobs(hydra: DictConfig, jobs: Jobs) -> list[list[str]]:
    """The jobs that are known before a sweep starts, so that they can be checked.

    Args:
        hydra: The part ``hydra`` of the config of the sweep as a whole.
        jobs: The jobs that the command line makes.

    Returns:
        Their overrides, Hydra's own at the end; for a search the one job that its trials share.

    Raises:
        ConfigError: The jobs cannot be made into a comparison.
    """
    if not str(hydra.sweeper._target_).endswith(".CompareSweeper"):
        return [list(overrides) for overrides in jobs.overrides]
    if jobs.swept:
        raise ConfigError(
            f"{jobs.swept[0]}: a comparison tries what hydra.sweeper.candidates, workloads and space hold; "
            f"put it there"
        )
    settings = typed(CompareSettings, "hydra.sweeper", hydra.sweeper)
    (overrides,) = jobs.overrides
    of_hydra = [o for o in overrides if o.lstrip("+~").startswith("hydra")]
    task = [o for o in overrides if o not in of_hydra]
    return [[*own, *of_hydra] for own, _ in tuning_jobs(settings, task)]
