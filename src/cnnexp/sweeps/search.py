"""Search for good settings: Optuna's samplers and pruners over Hydra's launchers, by ask and tell.

The study is kept in the sweep's folder beside the jobs; the same command resumes it. A trial is a job
like any other; trial.json in its run folder says which trial it is, so that the training can report to the
study and be pruned, in whatever process and on whatever machine it runs.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnexp.config.errors import ConfigError
from cnnexp.config.ranges import check_list, check_one_of, check_whole
from cnnexp.runs import RunFolder
from cnnexp.runs.files import write_json
from cnnexp.sweeps.ledger import JobStatus, Ledger

if TYPE_CHECKING:
    import optuna


log = logging.getLogger(__name__)

STUDY = "cnnexp"
_JOURNAL = "optuna.journal"  # the study's file, in the sweep's folder
_OF = "cnnexp.search"  # the study's attribute that says what it searches
_SAMPLERS = ("tpe", "cmaes", "random", "grid", "qmc")
_PRUNERS = ("median", "hyperband")

Launch = Callable[[Sequence[Sequence[str]]], Sequence[JobStatus]]


class SearchError(RuntimeError):
    """A search came to nothing."""


@dataclass(frozen=True)
class SearchSettings:
    """The part ``hydra.sweeper`` of a config with ``hydra/sweeper=optuna``.

    Attributes:
        n_trials: How many trials the study has in the end, including those of earlier commands.
        at_once: How many trials are asked for and launched together; ``auto``: as many as the launcher runs
            at a time.
        sampler: One of tpe, cmaes, random, grid, qmc.
        pruner: median or hyperband, which end trials that fall behind; None for none.
        objectives: Keys of result.json, each to be maximised or minimised.
        directions: ``maximize`` or ``minimize``, one per objective.
        seed: The seed of the sampler; None for another search each time.
        params: The search space, as overrides by key; those of the command line are added.
    """

    n_trials: int = 20
    at_once: int | str = "auto"
    sampler: str = "tpe"
    pruner: str | None = None
    objectives: Sequence[str] = ("val/acc",)
    directions: Sequence[str] = ("maximize",)
    seed: int | None = None
    params: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_whole("hydra.sweeper", self, "n_trials")
        if self.at_once != "auto":
            check_whole("hydra.sweeper", self, "at_once", instead="auto")
        check_one_of("hydra.sweeper.sampler", self.sampler, _SAMPLERS)
        if self.pruner not in (None, *_PRUNERS):
            raise ConfigError(
                f"hydra.sweeper.pruner={self.pruner}: must be null or one of {', '.join(_PRUNERS)}"
            )
        for name, example in (("objectives", "[val/loss]"), ("directions", "[minimize]")):
            check_list(f"hydra.sweeper.{name}", getattr(self, name), example)
        if self.seed is not None and not (type(self.seed) is int and self.seed >= 0):
            raise ConfigError(
                f"hydra.sweeper.seed={self.seed}: must be null or a whole number, at least 0"
            )
        if len(self.objectives) != len(self.directions) or not self.objectives:
            raise ConfigError(
                f"hydra.sweeper.directions={list(self.directions)}: must be one for each of the objectives "
                f"{list(self.objectives)}"
            )
        for direction in self.directions:
            if direction not in ("maximize", "minimize"):
                raise ConfigError(
                    f"hydra.sweeper.directions: {direction} must be maximize or minimize"
                )
        for objective in self.objectives:
            if objective.startswith("test/"):
                raise ConfigError(
                    f"hydra.sweeper.objectives: {objective} is of the test images, by which nothing may be "
                    f"chosen; take val/acc or val/loss"
                )
        if self.pruner is not None and len(self.objectives) > 1:
            raise ConfigError(
                "hydra.sweeper.pruner: a trial with several objectives is not pruned; set pruner=null"
            )
        if self.pruner is not None and not self.objectives[0].startswith("val/"):
            raise ConfigError(
                f"hydra.sweeper.pruner: {self.objectives[0]} is not known before the end of a trial; set "
                f"pruner=null, or the objective val/acc or val/loss"
            )


def open_study(
    folder: Path, settings: SearchSettings, space: Mapping[str, Any], shared: str | None = None
) -> optuna.study.Study:
    """The study in ``folder``, a new one if there is none yet.

    Args:
        folder: The sweep's.
        settings: The objectives, the sampler and the pruner.
        space: The search space.
        shared: What identifies the settings that all trials share; None to open any study.

    Raises:
        ConfigError: A package of the extra ``search`` is missing, the sampler cannot search this space, or
            the study in ``folder`` is of another search.
    """
    try:
        import optuna

        _sampler(settings, space, 0)
    except ImportError as error:
        raise ConfigError(
            f'hydra/sweeper=optuna needs {error.name}: pip install "cnnexp[search]"'
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=STUDY,
        storage=storage_in(folder),
        pruner=make_pruner(settings.pruner),
        directions=[optuna.study.StudyDirection[name.upper()] for name in settings.directions],
        load_if_exists=True,
    )
    if shared is not None:
        _check_same_search(study, folder, _identity(settings, space, shared))
    study.sampler = _sampler(settings, space, len(study.trials))
    return study


def _identity(settings: SearchSettings, space: Mapping[str, Any], shared: str) -> dict[str, Any]:
    """What must not change in a study, by the words for it: the range of a number may."""
    import optuna

    kinds = {
        key: each.choices
        if isinstance(each, optuna.distributions.CategoricalDistribution)
        else [type(each).__name__]
        for key, each in sorted(space.items())
    }
    return {
        "objectives": list(settings.objectives),
        "directions": list(settings.directions),
        "search space": {key: [str(value) for value in values] for key, values in kinds.items()},
        "settings that all trials share": shared,
    }


def _check_same_search(study: optuna.study.Study, folder: Path, now: Mapping[str, Any]) -> None:
    """Note in a new study what it is of; refuse to go on with one that is of something else.

    Its trials would steer, or be, the result of a search that they are no trials of.
    """
    before = study.user_attrs.get(_OF)
    if before is None:
        study.set_user_attr(_OF, dict(now))
        return
    for what, value in now.items():
        if value != before.get(what):
            raise ConfigError(
                f"{folder}: holds another search, whose {what} are {before.get(what)}, not {value}; choose "
                f"another sweep.name, or delete that folder"
            )


def storage_in(folder: Path) -> optuna.storages.JournalStorage:
    """The storage of the study in the sweep's ``folder``; Optuna says warnings alone from now on."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / _JOURNAL)))


def _sampler(
    settings: SearchSettings, space: Mapping[str, Any], trials: int
) -> optuna.samplers.BaseSampler:
    """The sampler for a study that has ``trials`` trials already, so that it does not draw them again."""
    import optuna

    seed = None if settings.seed is None else settings.seed + trials
    if settings.sampler == "grid":
        grid: dict[str, list[Any]] = {}
        for key, distribution in space.items():
            if not isinstance(distribution, optuna.distributions.CategoricalDistribution):
                raise ConfigError(
                    f"hydra.sweeper.sampler=grid: {key} must have listed values, as in {key}=1,2,3"
                )
            grid[key] = list(distribution.choices)

        class Grid(optuna.samplers.GridSampler):
            def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
                """Nothing: Optuna's would stop a loop of its own, and we ask and tell."""

        return Grid(grid, seed=settings.seed)
    if settings.sampler == "cmaes":
        import cmaes  # noqa: F401  # optuna asks for it only later

        return optuna.samplers.CmaEsSampler(seed=seed)
    if settings.sampler == "qmc":
        import scipy  # noqa: F401

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.QMCSampler(seed=seed, scramble=True)
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def note_trial(folder: RunFolder, sweep: Path, number: int, settings: SearchSettings) -> None:
    """Record in a job's folder which trial it is."""
    write_json(
        folder.trial,
        {
            "sweep": str(sweep.resolve()),
            "number": number,
            "pruner": settings.pruner,
            "objective": settings.objectives[0],
            "objectives": list(settings.objectives),
            "directions": list(settings.directions),
        },
    )


def make_pruner(name: str | None) -> optuna.pruners.BasePruner:
    """The pruner ``median`` or ``hyperband``, or for None one that prunes nothing."""
    import optuna

    if name == "median":
        return optuna.pruners.MedianPruner()
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner()
    return optuna.pruners.NopPruner()


@dataclass(frozen=True)
class Search:
    """Ask for trials, launch them, and report their results to the study, until there are enough.

    Attributes:
        study: The study, see :func:`open_study`.
        settings: The number of trials, and the objectives.
        at_once: How many trials are launched together.
        space: The search space.
        fixed: Overrides that all trials share.
        job_of: Overrides → the id of the job that they make.
        ledger: The ledger of the sweep.
        launch: Runs jobs: overrides of trials → their entries at the end.
    """

    study: optuna.study.Study
    settings: SearchSettings
    at_once: int
    space: dict[str, Any]
    fixed: Sequence[str]
    job_of: Callable[[Sequence[str]], str]
    ledger: Ledger
    launch: Launch

    def run(self) -> None:
        """Run the search.

        Raises:
            SearchError: All trials failed.
        """
        from optuna.trial import TrialState

        left_over = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if left_over:
            log.info("resuming %d trials of an earlier command", len(left_over))
            self._try([(trial.number, dict(trial.params)) for trial in left_over])
        wanted = self._wanted()
        while (missing := wanted - len(self.study.get_trials(deepcopy=False))) > 0:
            batch = []
            for _ in range(min(missing, self.at_once)):
                trial = self.study.ask(self.space)
                batch.append((trial.number, dict(trial.params)))
            self._try(batch)
        self._sum_up()

    def _wanted(self) -> int:
        """How many trials there are in the end: of a grid no more than it has points."""
        wanted = self.settings.n_trials
        if self.settings.sampler != "grid":
            return wanted
        points = math.prod(len(each.choices) for each in self.space.values())
        if wanted > points:
            log.info("the grid has %d points: no more trials than these", points)
        return min(wanted, points)

    def _try(self, batch: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        overrides = []
        for number, params in batch:
            own = [*self.fixed, *(f"{key}={value}" for key, value in params.items())]
            overrides.append(own)
            folder = self.ledger.folder(self.job_of(own))
            note_trial(folder, self.ledger.path, number, self.settings)
        for (number, _), entry in zip(batch, self.launch(overrides), strict=True):
            self._tell(number, entry)

    def _tell(self, number: int, entry: JobStatus) -> None:
        from optuna.trial import TrialState

        if entry.state == "done":
            result = entry.folder.read_result()
            values = [result.get(key) for key in self.settings.objectives]
            if all(isinstance(value, (int, float)) for value in values):
                figures = [float(value) for value in values if value is not None]
                # another command may have waited for the same job
                self.study.tell(number, figures, skip_if_finished=True)
                return
            log.warning("%s: result.json has no %s", entry.folder, list(self.settings.objectives))
        if entry.state in ("stopped", "interrupted"):  # the next command resumes it
            return
        state = TrialState.PRUNED if entry.state == "pruned" else TrialState.FAIL
        if state == TrialState.PRUNED and not self.study.trials[number].intermediate_values:
            state = TrialState.FAIL
        self.study.tell(number, state=state, skip_if_finished=True)

    def _sum_up(self) -> None:
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        counts = {state: sum(t.state == state for t in trials) for state in TrialState}
        said = ", ".join(f"{n} {state.name.lower()}" for state, n in counts.items() if n)
        log.info("search %s: %d trials, %s", self.ledger, len(trials), said)
        if not complete and counts[TrialState.RUNNING]:
            log.info("no trial is complete yet; the same command resumes those that were stopped")
        elif not complete:
            raise SearchError(
                f"search {self.ledger}: no trial was completed ({said}); why, says "
                f"python -m cnnexp.sweep status {self.ledger}"
            )
        for trial in self.study.best_trials[:10]:
            figures = zip(self.settings.objectives, trial.values, strict=True)
            values = "  ".join(f"{key} {value:.6g}" for key, value in figures)
            params = " ".join(f"{key}={value}" for key, value in trial.params.items())
            log.info("best: trial %d  %s  %s", trial.number, values, params)
