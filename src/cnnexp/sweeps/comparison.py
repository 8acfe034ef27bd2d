"""Fair comparison after AlgoPerf (Dahl et al., 2023): every candidate is tuned by the same number of trials.

A *candidate* (an optimiser, a regulariser, an algorithm of the backward pass) states its search space. For
each *workload* (network, data, a target on validation data) there are several *studies*: each draws its own
settings from the space, trains once with each, and chooses those that reach the target in the fewest
steps. The chosen settings are then trained anew with other seeds; only these final runs are counted, and
only they see the test images, once, at their end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

from cnnexp.config.errors import ConfigError
from cnnexp.config.ranges import check_whole
from cnnexp.runs.comparison_plan import Comparison, Trial
from cnnexp.suggestions import did_you_mean
from cnnexp.sweeps.ledger import JobStatus, Ledger
from cnnexp.sweeps.space import draw, parse

log = logging.getLogger(__name__)

_FINAL_SEEDS = 1000  # the seeds of final runs begin this far after the trials' seeds

Planned = tuple[list[str], Trial]


@dataclass(frozen=True)
class CompareSettings:
    """The part ``hydra.sweeper`` of a config with ``hydra/sweeper=compare``.

    Attributes:
        candidates: The candidates by name: ``overrides`` (a list) and ``space`` (override by key).
        workloads: The workloads by name: ``overrides`` and ``target`` (a value of ``metric``).
        space: The search space that all candidates share.
        metric: The metric of the target: ``val/acc`` or ``val/loss``.
        studies: How many studies there are, each with its own choice of settings.
        trials: How many settings each study tries.
        seeds: How many final runs follow from each study's choice.
        seed: The seed of the drawn settings; the seeds of the runs are derived from it.
    """

    candidates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    workloads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    space: Mapping[str, str] = field(default_factory=dict)
    metric: str = "val/acc"
    studies: int = 3
    trials: int = 5
    seeds: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("hydra.sweeper", self, "studies", "trials", "seeds")
        if self.studies * self.seeds > _FINAL_SEEDS:
            raise ConfigError(
                f"hydra.sweeper.seeds={self.seeds}: studies times seeds must be {_FINAL_SEEDS} at most"
            )
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigError(f"hydra.sweeper.seed={self.seed}: must be a whole number, at least 0")
        if self.metric not in ("val/acc", "val/loss"):
            raise ConfigError(
                f"hydra.sweeper.metric={self.metric}: must be val/acc or val/loss; nothing may be chosen by "
                f"test images"
            )
        if len(self.candidates) < 2:
            raise ConfigError(
                "hydra.sweeper.candidates: a comparison needs two or more; see conf/sweep/, as in "
                "sweep=compare_optimizers"
            )
        if not self.workloads:
            raise ConfigError("hydra.sweeper.workloads: a comparison needs one or more")
        for name, node in self.candidates.items():
            self._check(f"candidates.{name}", node, ("overrides", "space"))
            if not self.space_of(name) and self.trials > 1:
                raise ConfigError(
                    f"hydra.sweeper.candidates.{name}: has nothing to search, so its {self.trials} trials "
                    f"would be the same; give it a space, or set hydra.sweeper.trials=1"
                )
        for name, node in self.workloads.items():
            self._check(f"workloads.{name}", node, ("overrides", "target"))
            if not isinstance(node.get("target"), (int, float)):
                raise ConfigError(
                    f"hydra.sweeper.workloads.{name}.target={node.get('target')}: must be a value of "
                    f"{self.metric}, as 0.97"
                )

    def _check(self, where: str, node: Any, known: Sequence[str]) -> None:
        if not isinstance(node, Mapping):
            raise ConfigError(f"hydra.sweeper.{where}={node}: must hold {' and '.join(known)}")
        for key in node:
            if key not in known:
                raise ConfigError(
                    f"hydra.sweeper.{where}.{key}: there is no such setting."
                    f"{did_you_mean(key, list(known))}"
                )

    def space_of(self, candidate: str) -> dict[str, str]:
        """The search space of ``candidate``: the common one, overridden by its own."""
        own = self.candidates[candidate].get("space") or {}
        return {str(k): str(v) for k, v in {**self.space, **own}.items()}

    def overrides_of(self, candidate: str, workload: str) -> list[str]:
        """The overrides that make a run one of ``candidate`` on ``workload``."""
        nodes = (self.workloads[workload], self.candidates[candidate])
        return [str(each) for node in nodes for each in node.get("overrides") or ()]


def tuning_jobs(settings: CompareSettings, arguments: Sequence[str]) -> list[Planned]:
    """The trials of all studies: the overrides of each, and its description (with no job id yet).

    Candidates take turns, so that other load on the machine affects all alike.

    Raises:
        ConfigError: The command line sets what the comparison sets, or a space cannot be read.
    """
    for argument in arguments:
        _check_argument(settings, _key(argument), argument)
    drawn = _draw(settings)
    jobs: list[Planned] = []
    for trial in range(settings.trials):
        for (study, workload, candidate), points in drawn.items():
            place = (candidate, workload, study, trial)
            about = Trial("", *place, False, settings.seed + study, points[trial])
            jobs.append((_overrides(settings, arguments, about), about))
    return jobs


def _check_argument(settings: CompareSettings, key: str, argument: str) -> None:
    """Refuse an argument that the comparison's own settings would override."""
    if key in ("seed", "test"):
        raise ConfigError(
            f"{argument}: a comparison sets it for each of its runs; hydra.sweeper.seed=… draws others"
        )
    for part, nodes in (("candidates", settings.candidates), ("workloads", settings.workloads)):
        for name, node in nodes.items():
            own = [_key(str(override)) for override in node.get("overrides") or ()]
            searched = settings.space_of(name) if part == "candidates" else {}
            if key in own or key in searched:
                raise ConfigError(
                    f"{argument}: hydra.sweeper.{part}.{name} sets it; change it there"
                )


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _draw(settings: CompareSettings) -> dict[tuple[int, str, str], list[dict[str, Any]]]:
    """The settings that each study tries, by (study, workload, candidate)."""
    spaces = {
        name: parse(settings.space_of(name), f"hydra.sweeper.candidates.{name}.space")
        for name in settings.candidates
    }
    return {
        (study, workload, candidate): draw(
            space,
            settings.trials,
            (settings.seed, study, crc32(candidate.encode()), crc32(workload.encode())),
        )
        for study in range(settings.studies)
        for workload in settings.workloads
        for candidate, space in spaces.items()
    }


def _overrides(settings: CompareSettings, arguments: Sequence[str], about: Trial) -> list[str]:
    return [
        *arguments,
        *settings.overrides_of(about.candidate, about.workload),
        *(f"{key}={value}" for key, value in about.settings.items()),
        f"seed={about.seed}",
        *(() if about.final else ("test=false",)),
    ]


def compare_candidates(
    settings: CompareSettings,
    arguments: Sequence[str],
    add: Callable[[Sequence[str]], str],
    ledger: Ledger,
    launch: Callable[[Sequence[Sequence[str]]], Sequence[JobStatus]],
) -> None:
    """Run the trials, choose settings, run the final runs, and record all in the sweep's comparison.json.

    The same settings give the same jobs, so that a second call resumes a comparison that was stopped.

    Args:
        settings: The candidates, workloads and numbers of the comparison.
        arguments: Overrides that all runs share.
        add: Enters a job into the ledger: overrides → job id.
        ledger: The ledger of the sweep.
        launch: Runs jobs: their overrides → their entries at the end.
    """
    plan = Comparison(
        settings.metric,
        {name: float(node["target"]) for name, node in settings.workloads.items()},
        list(settings.candidates),
        {name: settings.space_of(name) for name in settings.candidates},
        *(settings.studies, settings.trials, settings.seeds),
    )
    tuning = [
        (own, replace(about, job=add(own))) for own, about in tuning_jobs(settings, arguments)
    ]
    plan = _with(plan, tuning, ledger)
    launch([own for own, _ in tuning])
    final = [
        (own, replace(about, job=add(own)))
        for own, about in _final_jobs(settings, arguments, plan, ledger)
    ]
    plan = _with(plan, final, ledger)
    ended = launch([own for own, _ in final])
    done = sum(entry.state == "done" for entry in ended)
    log.info(
        "comparison %s: %d candidates on %d workloads, %d trials, %d of %d final runs done. Look at it: "
        "python -m cnnexp.report %s",
        *(ledger, len(plan.candidates), len(plan.targets), len(tuning), done, len(final), ledger),
    )


def _final_jobs(
    settings: CompareSettings, arguments: Sequence[str], plan: Comparison, ledger: Ledger
) -> list[Planned]:
    jobs: list[Planned] = []
    for number in range(settings.seeds):
        for study in range(settings.studies):
            seed = settings.seed + _FINAL_SEEDS + study * settings.seeds + number
            for workload in settings.workloads:
                for candidate in settings.candidates:
                    chosen = plan.choose(ledger.path, candidate, workload, study)
                    place = (candidate, workload, study, chosen.trial)
                    about = Trial("", *place, True, seed, chosen.settings)
                    jobs.append((_overrides(settings, arguments, about), about))
    return jobs


def _with(plan: Comparison, jobs: Sequence[Planned], ledger: Ledger) -> Comparison:
    plan = replace(plan, jobs=[*plan.jobs, *(about for _, about in jobs)])
    plan.write(ledger.path)
    return plan
