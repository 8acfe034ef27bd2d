"""``run=`` and ``which=``: which run of a sweep is used, by validation alone, and what is said otherwise."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cnnexp.config import ConfigError
from cnnexp.config.selection import Selected, run_to_resume, run_to_use
from cnnexp.runs import RunFolder
from cnnexp.runs.comparison_plan import Comparison, Trial
from cnnexp.runs.files import write_json
from cnnexp.sweeps import Ledger
from cnnexp.sweeps.search import SearchSettings, note_trial

Result = dict[str, Any]
SWEEP = Path("outputs/sweeps/s")

pytestmark = pytest.mark.usefixtures("empty_folder")


def _sweep(
    results: Sequence[Result | str], *, monitor: str = "val/acc", own: Sequence[str] = ()
) -> list[RunFolder]:
    """A sweep over the seed: of each job its result, or the state in which it is instead."""
    ledger, folders = Ledger(SWEEP), []
    ledger.begin(["-m", "sweep.name=s", "seed=0,1"])
    for seed, result in enumerate(results):
        config = {"seed": seed, "checkpoint": {"monitor": monitor}}
        overrides = ["model=tiny", f"seed={seed}", *own]
        folder = ledger.folder(ledger.add(config, overrides))
        if isinstance(result, dict):
            folder.write_result(result)
        if result != "waiting":
            folder.write_status("done" if isinstance(result, dict) else result)  # pyright: ignore
        folders.append(folder)
    return folders


def _searched(results: Sequence[Result | str], **settings: Any) -> list[RunFolder]:
    folders = _sweep(results)
    for number, folder in enumerate(reversed(folders)):
        note_trial(folder, SWEEP, number, SearchSettings(**settings))
    return folders


def _single(name: str = "lenet5") -> RunFolder:
    folder = RunFolder(Path("outputs/train") / name / "2026-01-01_00-00-00")
    folder.path.mkdir(parents=True)
    folder.write_config({"seed": 0})
    folder.write_status("done")
    return folder


def _make_newest(folder: RunFolder) -> None:
    now = 2_000_000_000
    os.utime(folder.status, (now, now))


def _acc(value: float | None, test: float = 0.5) -> Result:
    return {"val/acc": value, "val/loss": None if value is None else 1 - value, "test/acc": test}


def _used(*arguments: str) -> Selected:
    selected = run_to_use(arguments)
    assert selected is not None
    return selected


@pytest.mark.parametrize("run", ["run=outputs/sweeps/s", "run=s", "run=latest", "run='s'"])
@pytest.mark.parametrize("which", [(), ("which=best",)])
def test_of_a_sweep_the_best_by_validation_is_used(run: str, which: tuple[str, ...]) -> None:
    # the test accuracy and the order in which they ended say otherwise
    folders = _sweep([_acc(0.9, 0.99), _acc(0.95, 0.1), _acc(0.8, 0.7)])
    _make_newest(folders[2])
    selected = _used(run, *which)
    assert selected.folder.path == folders[1].path
    assert str(selected) == (
        f"uses {folders[1]}, job 1 of its sweep (seed=1): the largest val/acc, 0.95, of 3 done"
    )


def test_what_is_not_done_damaged_or_without_validation_is_not_counted() -> None:
    folders = _sweep([_acc(0.9), _acc(None), "failed", "running", "waiting", _acc(0.99)])
    folders[5].result.write_text("{")
    selected = _used("run=s")
    assert selected.folder.path == folders[0].path
    assert "the largest val/acc, 0.9, of 1 done (5 not counted)" in selected.why


def test_a_tie_goes_to_the_first_and_is_said() -> None:
    folders = _sweep([_acc(0.8), _acc(0.9), _acc(0.9), _acc(0.9)])
    selected = _used("run=s")
    assert selected.folder.path == folders[1].path
    assert selected.why.endswith("of 4 done; 2 more reached it, this is the first")


@pytest.mark.parametrize(
    ("monitor", "own", "best"),
    [
        ("val/loss", (), 0),
        ("val/loss", ("checkpoint.monitor=val/loss",), 0),
        ("val/acc", (), 1),
    ],
)
def test_a_sweep_is_judged_by_what_its_jobs_choose_their_epoch_by(
    monitor: str, own: tuple[str, ...], best: int
) -> None:
    results = [{"val/acc": 0.9, "val/loss": 0.1}, {"val/acc": 0.95, "val/loss": 0.4}]
    folders = _sweep(results, monitor=monitor, own=own)
    selected = _used("run=s")
    assert selected.folder.path == folders[best].path
    assert (
        "the least val/loss" if monitor == "val/loss" else "the largest val/acc"
    ) in selected.why


def test_a_sweep_over_the_monitor_is_judged_by_val_acc() -> None:
    folders = _sweep([{"val/acc": 0.9, "val/loss": 0.1}, {"val/acc": 0.95, "val/loss": 0.4}])
    for folder, monitor in zip(folders, ("val/loss", "val/acc"), strict=True):
        write_json(folder.job, {"overrides": [f"checkpoint.monitor={monitor}"]})
    assert _used("run=s").folder.path == folders[1].path


@pytest.mark.parametrize(
    ("objective", "direction", "best"),
    [
        ("val/acc", "maximize", 1),
        ("val/loss", "minimize", 1),
        ("parameters", "minimize", 0),
        ("parameters", "maximize", 2),
    ],
)
def test_a_search_is_judged_by_its_own_objective(objective: str, direction: str, best: int) -> None:
    results = [{**_acc(v), "parameters": n} for v, n in ((0.9, 10), (0.95, 20), (0.8, 30))]
    folders = _searched(results, objectives=[objective], directions=[direction])
    selected = _used("run=latest")
    assert selected.folder.path == folders[best].path
    kind = "largest" if direction == "maximize" else "least"
    assert f"trial {2 - best} of its sweep (seed={best}): the {kind} {objective}, " in selected.why


def test_a_search_of_an_earlier_version_says_no_direction() -> None:
    folders = _sweep([{"val/acc": 0.9, "val/loss": 0.1}, {"val/acc": 0.95, "val/loss": 0.4}])
    for number, folder in enumerate(folders):
        write_json(folder.trial, {"number": number, "objective": "val/loss"})
    assert _used("run=s").folder.path == folders[0].path


def test_a_search_with_several_objectives_has_no_single_best() -> None:
    _searched(
        [_acc(0.9), _acc(0.8)],
        objectives=["val/acc", "parameters"],
        directions=["maximize", "minimize"],
    )
    message = (
        r"the search outputs/sweeps/s has 2 objectives \(val/acc, parameters\), so that no single"
    )
    with pytest.raises(ConfigError, match=message):
        _used("run=s")
    assert _used("run=s", "which=0").why == "trial 0 of its sweep (seed=1), which is done"


def _compared(folders: Sequence[RunFolder], finals: Sequence[int], *workloads: str) -> None:
    jobs = [
        Trial(folder.path.name, "adam", workloads[0], 0, 0, place in finals, 0, {})
        for place, folder in enumerate(folders)
    ]
    targets = dict.fromkeys(workloads, 0.9)
    Comparison("val/acc", targets, ["adam"], {}, 1, 1, 1, jobs).write(SWEEP)


def test_of_a_comparison_the_final_runs_count() -> None:
    folders = _sweep([_acc(0.99), _acc(0.9), _acc(0.95)])
    _compared(folders, [1, 2], "mnist")
    assert _used("run=s").folder.path == folders[2].path
    _compared(folders, [], "mnist")
    assert _used("run=s").folder.path == folders[0].path
    _compared(folders, [1, 2], "mnist", "digits")
    with pytest.raises(ConfigError, match=r"has 2 workloads \(mnist, digits\), whose runs do not"):
        _used("run=s")
    assert _used("run=s", "which=1").folder.path == folders[1].path


def test_which_takes_a_number_or_an_id() -> None:
    folders = _sweep([_acc(0.9)] * 11 + ["failed"])
    for number, folder in enumerate(folders):  # seed=10 is no 2
        assert _used("run=s", f"which={number}").folder.path == folder.path
    job = folders[3].path.name
    for which in (job, job[:6]):
        selected = _used("run=latest", f"which={which}")
        assert selected.folder.path == folders[3].path
        assert selected.why == "job 3 of its sweep (seed=3), which is done"
    assert _used("run=s", "which=11").why == "job 11 of its sweep (seed=11), which is failed"


@pytest.mark.parametrize("which", ["9", "-1", "first", "", "1.0", "01"])
def test_a_job_that_is_not_there(which: str) -> None:
    _sweep([_acc(0.9)] * 3)
    message = (
        rf"^which={which}: the sweep outputs/sweeps/s has no such job; say best, a number \(0 to 2\), or a "
        rf"job's id; python -m cnnexp\.sweep status outputs/sweeps/s lists them"
    )
    with pytest.raises(ConfigError, match=message):
        _used("run=s", f"which={which}")


@pytest.mark.parametrize("states", [["failed", "running"], ["waiting"], ["stopped", "pruned"]])
def test_no_job_is_done(states: list[str]) -> None:
    _sweep(states)
    counts = ", ".join(f"1 {state}" for state in sorted(states))
    message = rf"run=s: no job of the sweep outputs/sweeps/s is done \({counts}\)"
    with pytest.raises(ConfigError, match=message):
        _used("run=s")


def test_a_job_that_has_not_begun_is_no_network() -> None:
    _sweep([_acc(0.9), "waiting"])
    with pytest.raises(ConfigError, match=r"which=1: job \w+ of outputs/sweeps/s has not begun"):
        _used("run=s", "which=1")


def test_no_validation_no_best() -> None:
    _sweep([_acc(None), _acc(None)])
    with pytest.raises(ConfigError, match=r"no done job of the sweep outputs/sweeps/s has val/acc"):
        _used("run=s")


@pytest.mark.parametrize("which", ["best", "0"])
def test_which_goes_with_a_sweep(which: str) -> None:
    single = _single()
    with pytest.raises(
        ConfigError, match=rf"which={which}: chooses among the jobs of a sweep, but"
    ):
        _used(f"run={single}", f"which={which}")
    with pytest.raises(ConfigError, match=r"run=latest is one run \(run=latest is outputs/train/l"):
        _used("run=latest", f"which={which}")


def test_latest_is_the_newest_run_or_the_sweep_of_the_newest_job() -> None:
    single, jobs = _single(), _sweep([_acc(0.9), _acc(0.8)])
    _make_newest(single)
    assert str(_used("run=latest")) == f"uses {single}, the newest run in outputs"
    _make_newest(jobs[1])
    os.utime(single.status, (1, 1))
    assert _used("run=latest").folder.path == jobs[0].path
    assert str(_used(f"run={jobs[1]}")) == f"uses {jobs[1]}"
    with pytest.raises(ConfigError, match="run=latest: there is no run in elsewhere"):
        _used("run=latest", "output_dir=elsewhere")
    assert run_to_use(["image=3"]) is None


def test_the_name_of_runs_is_the_newest_of_them() -> None:
    single = _single()
    other = RunFolder(single.path.with_name("2026-01-01_00-00-01"))
    shutil.copytree(single.path, other.path)
    _sweep([_acc(0.9)])
    for newest in (single, other):
        for folder in (single, other):
            os.utime(folder.status, (2, 2) if folder is newest else (1, 1))
        for run in (single.path.parent.name, str(single.path.parent)):
            found = _used(f"run={run}")
            assert str(found) == f"uses {newest}, the newest run in {newest.path.parent}"
            resumed = run_to_resume([f"run={run}"])
            assert resumed is not None
            assert resumed.path == newest.path


@pytest.mark.parametrize("run", ["", "nowhere", "outputs", "outputs/train", "outputs/sweeps"])
def test_no_run_at_all(run: str) -> None:
    _sweep([_acc(0.9)])
    for find in (run_to_use, run_to_resume):
        with pytest.raises(
            ConfigError, match=rf"^run={run}: holds no run \(no config\.yaml and sta"
        ):
            find([f"run={run}"])


def test_a_sweep_is_resumed_by_its_own_command() -> None:
    single, jobs = _single(), _sweep([_acc(0.9), "stopped"])
    os.utime(single.status, (1, 1))
    command = "python -m cnnexp.train -m sweep.name=s seed=0,1"
    for run, said in (
        ("latest", "is the sweep outputs/sweeps/s"),
        ("outputs/sweeps/s", "is a sweep"),
    ):
        with pytest.raises(ConfigError) as caught:
            run_to_resume([f"run={run}"])
        assert str(caught.value).startswith(
            f"run={run}: {said}, which is resumed by its own command, {command}; to resume one job, "
            f"name its folder, run=outputs/sweeps/s/<job>"
        )
        assert (str(single) in str(caught.value)) == (run == "latest")
    folder = run_to_resume([f"run={jobs[1]}"])
    assert folder is not None
    assert folder.path == jobs[1].path
    _make_newest(single)
    folder = run_to_resume(["run=latest"])
    assert folder is not None
    assert folder.path == single.path
    with pytest.raises(
        ConfigError, match=r"which=best: goes with cnnexp\.evaluate, predict, explain"
    ):
        run_to_resume(["run=latest", "which=best"])
    assert run_to_resume(["seed=3"]) is None
