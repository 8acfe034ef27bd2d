"""``hydra/sweeper=optuna``: what is searched, real trials in real processes, pruning, resuming."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cnnexp import train
from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.resolvers import register_resolvers
from cnnexp.execution import Job, run_job
from cnnexp.execution.slots import cores
from cnnexp.sweeps import Ledger, sweepers
from cnnexp.sweeps.hydra import REPORT
from cnnexp.sweeps.launcher import LauncherSettings
from cnnexp.sweeps.ledger import JobStatus
from cnnexp.sweeps.search import (
    Search,
    SearchSettings,
    note_trial,
    open_study,
)
from cnnexp.sweeps.space import search_space
from cnnexp.sweeps.sweepers import SweepJobs

SMALL = (
    *("data=digits", "data.train_size=64", "data.val_size=20", "data.batch_size=16"),
    *("model=lenet5", "backward=direct", "accelerator=cpu", "trainer.max_epochs=2", "logger=csv"),
)


def _space(*overrides: str) -> dict[str, Any]:
    return search_space(OverridesParser.create().parse_overrides(list(overrides)))


def test_overrides_become_distributions() -> None:
    space = _space(
        "optimizer.lr=tag(log,interval(1e-4,1e-1))",
        "model.dropout=interval(0.0,0.5)",
        "trainer.max_epochs=int(interval(2,9))",
        "optimizer=adam,sgd",
        "seed=range(3)",
    )
    distributions = optuna.distributions
    assert space == {
        "optimizer.lr": distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "model.dropout": distributions.FloatDistribution(0.0, 0.5),
        "trainer.max_epochs": distributions.IntDistribution(2, 9),
        "optimizer": distributions.CategoricalDistribution(["adam", "sgd"]),
        "seed": distributions.CategoricalDistribution([0, 1, 2]),
    }
    with pytest.raises(ConfigError, match=r"lr=interval\(3,1\): the interval must go from"):
        _space("lr=interval(3,1)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_trials": 0}, r"hydra\.sweeper\.n_trials=0: must be a whole number, at least 1"),
        ({"at_once": None}, r"hydra\.sweeper\.at_once=None: must be auto or a whole number, at"),
        ({"sampler": "best"}, r"hydra\.sweeper\.sampler=best: must be one of tpe, cmaes, random"),
        ({"pruner": "sharp"}, r"hydra\.sweeper\.pruner=sharp: must be null or one of median"),
        ({"seed": "abc"}, r"hydra\.sweeper\.seed=abc: must be null or a whole number, at least 0"),
        ({"seed": -1}, r"hydra\.sweeper\.seed=-1: must be null or a whole number, at least 0"),
        (
            {"objectives": "val/loss"},
            r"hydra\.sweeper\.objectives=val/loss: must be a list, as in \[val/loss\]",
        ),
        (
            {"directions": "minimize"},
            r"hydra\.sweeper\.directions=minimize: must be a list, as in \[minimize\]",
        ),
        ({"directions": []}, r"directions=\[\]: must be one for each of the objectives"),
        ({"directions": ["up"]}, r"directions: up must be maximize or minimize"),
        (
            {"pruner": "median", "objectives": ["a", "b"], "directions": ["minimize"] * 2},
            r"a trial with several objectives is not pruned",
        ),
        ({"objectives": ["test/acc"]}, r"test/acc is of the test images, by which nothing may be"),
        (
            {"pruner": "median", "objectives": ["seconds_fit"]},
            r"seconds_fit is not known before the end",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchSettings(**settings)


def test_a_grid_needs_listed_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sampler=grid: lr must have listed values"):
        open_study(tmp_path, SearchSettings(sampler="grid"), _space("lr=interval(0.1,1.0)"))


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "grid", "qmc"])
def test_every_sampler_asks_and_is_told(sampler: str, tmp_path: Path) -> None:
    space = _space("x=1,2,3,4") if sampler == "grid" else _space("x=interval(0.0,1.0)")
    study = open_study(tmp_path, SearchSettings(sampler=sampler, seed=0), space)
    for _ in range(4):  # all points of the grid
        trial = study.ask(space)
        study.tell(trial, float(trial.params["x"]))
    again = open_study(tmp_path, SearchSettings(sampler=sampler, seed=0), space)
    assert len(again.trials) == 4
    assert again.best_value == max(float(t.params["x"]) for t in again.trials)


def _search(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    command = ["cnnexp.train", "-m", "hydra/sweeper=optuna", "sweep.name=s", *SMALL, *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        train.main()
    return end.value.code


@pytest.mark.usefixtures("own_logging")
def test_a_search_runs_goes_on_and_lives_with_failures(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    space = ("optimizer.lr=tag(log,interval(1e-4,1e-1))", "optimizer.betas=[0.9,0.999],[2.0,2.0]")
    settings = ("hydra.sweeper.at_once=2", "hydra.launcher.jobs=2", "hydra.sweeper.sampler=random")
    given = (*space, *settings)
    assert _search(*given, "hydra.sweeper.n_trials=4", monkeypatch=monkeypatch) == 0
    ledger = Ledger(empty_folder / "outputs" / "sweeps" / "s")
    study = open_study(ledger.path, SearchSettings(), {})
    states = [trial.state.name for trial in study.trials]
    assert len(states) == 4
    bad = [t.params["optimizer.betas"] == "[2.0,2.0]" for t in study.trials]
    assert states == ["FAIL" if each else "COMPLETE" for each in bad]
    assert any(bad)
    for trial in study.trials:
        if trial.state.name == "COMPLETE":
            (entry,) = [
                e
                for e in ledger.entries()
                if f"optimizer.lr={trial.params['optimizer.lr']}" in e.overrides
            ]
            assert trial.value == entry.folder.read_result()["val/acc"]
    said = capfd.readouterr().out
    assert "best: trial" in said
    assert "Invalid beta parameter" in said

    five = (*given, "hydra.sweeper.n_trials=5")
    assert _search(*five, monkeypatch=monkeypatch) == 0
    assert len(open_study(ledger.path, SearchSettings(), {}).trials) == 5
    wider = [each.replace("1e-1", "1e-2") for each in five]
    assert _search(*wider, monkeypatch=monkeypatch) == 0  # ranges may change
    capfd.readouterr()
    others = {
        "settings that all trials share": [*five, "seed=3"],
        "objectives": [*five, "hydra.sweeper.objectives=[val/loss]"],
        "directions": [*five, "hydra.sweeper.directions=[minimize]"],
        "search space": [each.replace("[2.0,2.0]", "[0.9,0.99]") for each in five],
    }
    for what, other in others.items():
        assert _search(*other, monkeypatch=monkeypatch) == 2
        said = capfd.readouterr().err
        assert f"outputs/sweeps/s: holds another search, whose {what} are " in said
        assert said.endswith("; choose another sweep.name, or delete that folder\n")
    assert len(open_study(ledger.path, SearchSettings(), {}).trials) == 5


@pytest.mark.usefixtures("own_logging")
def test_a_search_without_a_complete_trial_says_so_in_one_line(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fails = ("optimizer.betas=[2.0,2.0],[3.0,3.0]", "hydra.sweeper.sampler=grid")
    assert _search(*fails, "hydra.sweeper.n_trials=2", monkeypatch=monkeypatch) == 1
    said = capfd.readouterr()
    assert said.err.splitlines()[-1] == (
        "cnnexp.train: search outputs/sweeps/s: no trial was completed (2 fail); why, says "
        "python -m cnnexp.sweep status outputs/sweeps/s"
    )
    assert "Traceback" not in said.out + said.err


@pytest.mark.usefixtures("own_logging")
def test_a_search_whose_trials_were_stopped_is_resumed(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ("optimizer.lr=1e-3,1e-2", "hydra.sweeper.sampler=grid")
    stopped = _search(*given, "hydra.launcher.time_limit=0.001", monkeypatch=monkeypatch)
    said = capfd.readouterr().out
    assert stopped == 0
    assert "no trial is complete yet; the same command resumes those that were stopped" in said
    assert _search(*given, monkeypatch=monkeypatch) == 0
    said = capfd.readouterr().out
    assert "the grid has 2 points: no more trials than these" in said
    assert "2 trials, 2 complete" in said


@pytest.mark.usefixtures("own_logging")
def test_trials_run_as_many_at_a_time_as_jobs_and_a_linear_search_over_decades_is_said(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    launched: list[int] = []
    before = SweepJobs.launch

    def launch(self: SweepJobs, batch: Sequence[Sequence[str]]) -> list[JobStatus]:
        launched.append(len(batch))
        return before(self, batch)

    monkeypatch.setattr(SweepJobs, "launch", launch)
    given = ("optimizer.lr=interval(1e-4,1e-1)", "hydra.launcher.jobs=2")
    monkeypatch.setattr(
        sweepers, "_ROUNDS", 2
    )  # else eight trials would be needed for two at a time
    assert _search(*given, "hydra.sweeper.n_trials=4", monkeypatch=monkeypatch) == 0
    assert launched == [2, 2]
    said = capfd.readouterr().out
    warning = (
        "optimizer.lr=interval(0.0001,0.1) is searched linearly: nine of ten trials lie between 0.01 and "
        "0.1; for all decades alike, optimizer.lr=tag(log,interval(0.0001,0.1))"
    )
    assert said.count(warning) == 1


@pytest.mark.parametrize(
    ("settings", "jobs"),
    [
        ({"jobs": 3}, 3),
        ({"gpus": [0, 1], "jobs_per_gpu": 2}, 4),
        ({"gpus": []}, max(1, cores() // 2)),
    ],
)
def test_how_many_jobs_run_at_a_time(settings: dict[str, Any], jobs: int) -> None:
    assert LauncherSettings(**settings).at_a_time == jobs


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "hydra/sweeper=optuna: nothing to search; add for example"),
        (["seed=0,1", "hydra.sweeper.sampler=best"], "hydra.sweeper.sampler=best: must be one of"),
        (["seed=0,1", "hydra.launcher.jobs=0"], "hydra.launcher.jobs=0: must be auto or"),
        (
            ["seed=0,1", "+hydra.sweeper.trials=3"],
            "hydra.sweeper.trials: there is no such setting. Did you mean 'n_trials'?",
        ),
    ],
)
def test_searches_that_cannot_be(
    arguments: list[str],
    message: str,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert _search(*arguments, monkeypatch=monkeypatch) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said


def _job(ledger: Ledger, *overrides: str) -> Job:
    register_resolvers()
    config = plain_config(Composer("train").compose([*SMALL, *overrides]))
    return Job(config, str(ledger.folder(ledger.add(config, overrides))), report=REPORT)


def test_a_trial_that_falls_behind_is_pruned_and_the_study_is_told(empty_folder: Path) -> None:
    ledger, settings = Ledger("s"), SearchSettings(pruner="median", n_trials=7)
    space = _space("optimizer.lr=interval(0.0,0.1)")
    study = open_study(ledger.path, settings, space)
    for _ in range(5):  # that were better than any network after an epoch
        trial = study.ask(space)
        for epoch in (1, 2):
            trial.report(1.5, epoch)
        study.tell(trial, 1.5)
    jobs: dict[tuple[str, ...], Job] = {}

    def job_of(own: Any) -> str:
        jobs[tuple(own)] = _job(ledger, *own)
        return Path(jobs[tuple(own)].folder).name

    def launch(batch: Any) -> list[Any]:
        for own in batch:
            run_job(jobs[tuple(own)])
        return [ledger.entry(Path(jobs[tuple(own)].folder).name) for own in batch]

    Search(study, settings, 1, space, [], job_of, ledger, launch).run()
    pruned = study.trials[5:]
    assert [t.state.name for t in pruned] == ["PRUNED", "PRUNED"]
    assert all(list(t.intermediate_values) == [1] for t in pruned)
    for entry in ledger.entries():
        assert entry.state == "pruned"
        assert "pruned after epoch 1: val/acc" in entry.status["error"]
        assert not entry.folder.result.exists()


def test_a_trial_of_a_stopped_command_goes_on_with_the_next(empty_folder: Path) -> None:
    ledger, settings = Ledger("s"), SearchSettings(n_trials=2)
    space = _space("optimizer.lr=interval(0.001,0.002)")
    study = open_study(ledger.path, settings, space)
    lost = study.ask(space)  # and the command was killed
    tried: list[Any] = []

    def launch(batch: Any) -> list[Any]:
        tried.extend(batch)
        jobs = [_job(ledger, *own) for own in batch]
        for job in jobs:
            run_job(job)
        return [ledger.entry(Path(job.folder).name) for job in jobs]

    def job_of(own: Any) -> str:
        return Path(_job(ledger, *own).folder).name

    Search(study, settings, 1, space, [], job_of, ledger, launch).run()
    Search(study, settings, 1, space, [], job_of, ledger, launch)._tell(
        0, next(iter(ledger.entries()))
    )
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2  # another was first
    assert tried[0] == [f"optimizer.lr={lost.params['optimizer.lr']}"]
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE"]


def test_a_trial_is_noted_where_its_job_finds_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s")
    folder = ledger.folder("abc")
    folder.path.mkdir(parents=True)
    note_trial(folder, ledger.path, 3, SearchSettings(pruner="hyperband"))
    assert '"number": 3' in folder.trial.read_text()
