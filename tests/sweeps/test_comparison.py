"""``sweep=compare_…``: as many trials for each, the choice, the final runs, and resuming."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cnnexp import report, train
from cnnexp.config import ConfigError, conf_dir
from cnnexp.runs import RunFolder
from cnnexp.runs.comparison_plan import Comparison, outcome_of
from cnnexp.sweeps.comparison import CompareSettings, tuning_jobs

CANDIDATES: dict[str, Any] = {
    "sgd": {"overrides": ["optimizer=sgd"], "space": {"optimizer.lr": "interval(0.1,1.0)"}},
    "adam": {"overrides": ["optimizer=adam"]},
}
WORKLOADS: dict[str, Any] = {
    "a": {"overrides": ["model=lenet5"], "target": 0.9},
    "b": {"overrides": ["model=tiny"], "target": 0.8},
}
SPACE = {"optimizer.lr": "tag(log,interval(1e-4,1e-2))"}


def _settings(**changes: Any) -> CompareSettings:
    given = {"candidates": CANDIDATES, "workloads": WORKLOADS, "space": SPACE, **changes}
    return CompareSettings(**given)


def test_every_candidate_gets_as_many_trials_and_no_test_images() -> None:
    jobs = tuning_jobs(_settings(studies=2, trials=3), ["trainer.max_epochs=1"])
    counts = Counter((about.candidate, about.workload, about.study) for _, about in jobs)
    assert len(counts) == 8
    assert set(counts.values()) == {3}
    assert all("test=false" in own and own[0] == "trainer.max_epochs=1" for own, _ in jobs)
    assert [about.candidate for _, about in jobs[:4]] == ["sgd", "adam", "sgd", "adam"]
    own = {about.candidate: about.settings["optimizer.lr"] for _, about in jobs}
    assert own["sgd"] >= 0.1  # its own space comes after the common one
    assert own["adam"] <= 0.01
    assert len({tuple(overrides) for overrides, _ in jobs}) == len(jobs)
    more = tuning_jobs(_settings(studies=2, trials=5), ["trainer.max_epochs=1"])
    assert [tuple(overrides) for overrides, _ in more][: len(jobs)] == [tuple(o) for o, _ in jobs]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, r"hydra\.sweeper\.trials=0: must be a whole number, at least 1"),
        ({"studies": 500, "seeds": 3}, r"studies times seeds must be 1000 at most"),
        ({"seed": -1}, r"hydra\.sweeper\.seed=-1: must be a whole number, at least 0"),
        (
            {"metric": "test/acc"},
            r"metric=test/acc: must be val/acc or val/loss; nothing may be chosen",
        ),
        ({"candidates": {}}, r"hydra\.sweeper\.candidates: a comparison needs two or more"),
        ({"workloads": {}}, r"hydra\.sweeper\.workloads: a comparison needs one or more"),
        (
            {"space": {}},
            r"candidates\.adam: has nothing to search, so its 5 trials would be the same",
        ),
        ({"candidates": {"a": {}, "b": 3}}, r"candidates\.b=3: must hold overrides and space"),
        ({"candidates": {"a": {"spaec": {}}, "b": {}}}, r"a\.spaec: .* Did you mean 'space'"),
        ({"workloads": {"a": {}}}, r"workloads\.a\.target=None: must be a value of val/acc"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _settings(**changes)


def _run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["cnnexp.train", "-m", "hydra.launcher.jobs=2", *arguments])
    with pytest.raises(SystemExit) as end:
        train.main()
    return end.value.code


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed=3", "seed=3: a comparison sets it for each of its runs"),
        ("test=true", "test=true: a comparison sets it for each of its runs"),
        ("optimizer.lr=3", "optimizer.lr=3: hydra.sweeper.candidates.sgd sets it; change it there"),
        ("optimizer=adam", "optimizer=adam: hydra.sweeper.candidates.sgd sets it; change it there"),
        ("data.train_size=99", "data.train_size=99: hydra.sweeper.workloads.lenet5 sets it"),
        ("data.batch_size=32,64", "data.batch_size=32,64: a comparison tries what hydra.sweeper"),
        (
            "hydra.sweeper.trails=3",
            "no key 'hydra.sweeper.trails' in the config. Did you mean 'hydra.sweeper.trials'?",
        ),
    ],
)
def test_what_the_comparison_sets_is_not_to_be_set(
    argument: str,
    message: str,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run("sweep=compare_optimizers", argument, monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert not list(empty_folder.iterdir())


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("argument", ["sweep=compare_optimizers", "hydra/sweeper=optuna"])
def test_what_is_for_sweeps_needs_m(
    argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cnnexp.train", argument])
    with pytest.raises(SystemExit) as end:
        train.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"{argument}: is for sweeps: python -m cnnexp.train -m {argument}" in said


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("file", sorted(conf_dir().glob("sweep/*.yaml")), ids=lambda f: f.stem)
def test_every_comparison_can_start(
    file: Path,
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ("data=digits", "data.train_size=1000", "data.val_size=100")
    few = ("hydra.sweeper.trials=1", "hydra.sweeper.studies=1")
    # each workload says how many images, more than there are digits
    if file.stem == "compare_optimizers":
        few += tuple(
            f"hydra.sweeper.workloads.{name}.overrides=['model={name}']"
            for name in ("lenet5", "seed_cnn", "tiny")
        )
    given = (f"sweep={file.stem}", "validate_only=true", *small, *few)
    assert _run(*given, monkeypatch=monkeypatch) == 0
    assert "jobs that are known before the sweep starts can start" in capsys.readouterr().out


@pytest.mark.usefixtures("own_logging")
def test_a_comparison_tunes_chooses_counts_and_goes_on(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = (
        *(
            "hydra/sweeper=compare",
            "sweep.name=c",
            "data=digits",
            "data.train_size=200",
            "logger=csv",
        ),
        *("data.val_size=100", "data.batch_size=20", "model=lenet5", "accelerator=cpu"),
        *("trainer.max_epochs=2", "+trainer.val_check_interval=0.5", "backward=direct"),
        *("hydra.sweeper.studies=1", "hydra.sweeper.trials=2", "hydra.sweeper.seeds=1"),
        "+hydra.sweeper.workloads.digits.target=0.5",
        "+hydra.sweeper.candidates.adam.overrides=['optimizer=adam']",
        "+hydra.sweeper.candidates.adam.space={optimizer.lr:'tag(log,interval(3e-4,3e-3))'}",
        "+hydra.sweeper.candidates.wild.overrides=['optimizer=sgd']",  # diverges: never reached
        "+hydra.sweeper.candidates.wild.space={optimizer.lr:'interval(1e6,1e7)'}",
    )
    assert _run(*given, monkeypatch=monkeypatch) == 0
    folder = empty_folder / "outputs" / "sweeps" / "c"
    plan = Comparison.read(folder)
    assert plan is not None
    assert Counter((j.candidate, j.final) for j in plan.jobs) == {
        ("adam", False): 2,
        ("adam", True): 1,
        ("wild", False): 2,
        ("wild", True): 1,
    }
    of_adam = [job for job in plan.jobs if job.candidate == "adam"]
    (final,) = (job for job in of_adam if job.final)
    assert isinstance(RunFolder(folder / final.job).read_result()["test/acc"], float)
    tuning = [job for job in of_adam if not job.final]
    for job in tuning:
        assert RunFolder(folder / job.job).read_result()["test/acc"] is None
    outcomes = [outcome_of(RunFolder(folder / job.job), "val/acc", 0.5) for job in tuning]
    ranks = [(o.steps, -o.best) for o in outcomes]
    assert final.settings == tuning[ranks.index(min(ranks))].settings
    assert final.seed not in {job.seed for job in tuning}

    before = {f: f.stat().st_mtime_ns for f in folder.glob("*/status.json")}
    assert _run(*given, monkeypatch=monkeypatch) == 0
    assert {f: f.stat().st_mtime_ns for f in folder.glob("*/status.json")} == before
    assert Comparison.read(folder) == plan

    capfd.readouterr()
    monkeypatch.setattr(sys, "argv", ["cnnexp.report", str(folder), "--no-page"])
    with pytest.raises(SystemExit) as end:
        report.main()
    assert end.value.code == 0
    said = capfd.readouterr().out
    assert "score by steps" in said
    assert "never" in said
    assert (folder / "comparison.csv").read_text(encoding="utf-8").count("\n") == 3
