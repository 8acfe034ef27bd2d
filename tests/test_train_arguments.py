"""The command line of ``cnnexp.train`` as Hydra's users type it: it works, or one sentence says why not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from cnnexp import train
from cnnexp.config import Composer, ConfigError
from cnnexp.config.hydra_settings import for_sweep
from cnnexp.execution.folders import run_folder
from cnnexp.sweeps import Ledger, command

Typed = Callable[..., tuple[object, str, str]]
CHECK = ("data=digits", "model=lenet5", "backward=direct", "accelerator=cpu", "validate_only=true")
SMALL = (
    *("data=digits", "data.train_size=32", "data.val_size=10", "model=lenet5", "backward=direct"),
    *("accelerator=cpu", "trainer.max_epochs=1", "logger=csv", "diagnostics=off", "test=false"),
)
MINE = {  # a user's own config folder
    "mine/swept.yaml": {
        "defaults": ["train", "_self_"],
        "hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"seed": "1,2"}}},
    },
    "mine/experiment/many.yaml": {"hydra": {"mode": "MULTIRUN"}},
    "mine/experiment/launched.yaml": {"hydra": {"mode": "MULTIRUN", "launcher": {"jobs": 2}}},
    "mine/experiment/one.yaml": {"hydra": {"mode": "RUN"}},
    "mine/experiment/params.yaml": {
        "hydra": {"sweeper": {"params": {"optimizer": {"lr": "0.1,0.2,0.3"}}}}
    },
    "mine/experiment/search.yaml": {
        "defaults": [{"override /hydra/sweeper": "optuna"}],
        "hydra": {"sweeper": {"params": {"optimizer": {"lr": "interval(0.1,0.2)"}}}},
    },
    "mine/experiment/folders.yaml": {
        "hydra": {"run": {"dir": "own/run"}, "sweep": {"dir": "own/sweep"}}
    },
}


@pytest.fixture
def typed(
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    own_logging: None,
) -> Typed:
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["cnnexp.train", *arguments])
        with pytest.raises(SystemExit) as stop:
            train.main()
        said = capfd.readouterr()
        assert "Traceback" not in said.out + said.err
        return stop.value.code, said.out, said.err

    return run


@pytest.fixture
def mine(empty_folder: Path) -> tuple[str, ...]:
    """The flag that adds a config folder of one's own."""
    for name, content in MINE.items():
        file = empty_folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        head = "# @package _global_\n" if "experiment" in name else ""
        file.write_text(head + yaml.safe_dump(content))
    return ("--config-dir", "mine")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The configs that would be checked, which takes torch; here they are only noted."""
    noted: list[object] = []
    one = SimpleNamespace(name="none", checksum="0", notice="")
    images = SimpleNamespace(images=one)

    def check(composed: object, config: object, *rest: object) -> SimpleNamespace:
        noted.append(config)
        return SimpleNamespace(data=images)

    monkeypatch.setattr(train, "checked_job", check)
    monkeypatch.setattr(command, "checked_job", check)
    monkeypatch.setattr(command, "warm_up", lambda: None)
    return noted


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cfg", "hydra"],
        ["--cfg", "all", "--resolve"],
        ["--cfg", "job", "-p", "optimizer", "--resolve"],
        ["optimizer=sgd", "--info", "defaults"],
        ["--info", "searchpath"],
        ["--hydra-help"],
        ["-sc", "install=bash"],
        ["--version"],
    ],
)
def test_what_informs_informs(arguments: list[str], typed: Typed, empty_folder: Path) -> None:
    code, out, err = typed(*arguments)
    assert (code, err) == (0, "")
    assert out
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [
        (["hydra.mode=MULTIRUN", "seed=1,2"], 2),
        (["optimizer=adam", "-m", "seed=1,2"], 2),
        (["-m", "hydra.mode=RUN", "seed=1,2"], 2),  # as in Hydra, -m wins
        (["-m", "seed=5"], 1),
        (["-m", "+hydra.sweeper.params.seed=1,2"], 2),
        (["-m", "hydra.sweeper.params.seed='1,2'", "optimizer=adam,sgd"], 4),
        (["-m", '+hydra.sweeper.params={seed: "1,2", optimizer.lr: "0.1,0.2"}'], 4),
        (["-m", "hydra.sweeper.params.seed=1,2", "seed=3"], 1),  # what is swept itself counts
        (["-m", "hydra.sweeper.max_batch_size=1", "seed=choice(1,2)"], 2),
        (["--config-dir", "mine", "--config-name", "swept"], 2),
        (["--config-dir", "mine", "--config-name", "swept", "seed=1,2,3"], 3),
        (["--config-dir", "mine", "seed=range(2)", "experiment=many"], 2),
        (["--config-dir", "mine", "seed=1,2", "experiment=one", "-m"], 2),
        (["--config-dir", "mine", "experiment=params", "-m"], 3),
        (["-m", "hydra.launcher.jobs=2", "seed=1,2"], 2),
        (["hydra.launcher.jobs=2", "seed=1,2", "hydra.mode=MULTIRUN"], 2),
        (["--config-dir", "mine", "experiment=launched", "seed=1,2"], 2),
        (["-m", "hydra/launcher=basic", "seed=1,2"], 2),
        (["-m", "hydra/launcher=slurm", "hydra.launcher.partition=x", "seed=1,2"], 2),
    ],
)
def test_what_sweeps_is_checked_as_a_sweep(
    arguments: list[str], jobs: int, mine: tuple[str, ...], unchecked: list[object], typed: Typed
) -> None:
    code, out, err = typed(*arguments, *CHECK)
    assert (code, err) == (0, "")
    assert out == f"checked: {jobs} job{'s' * (jobs > 1)} can start\n"
    assert len(unchecked) == jobs


@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_what_is_the_same_job_is_counted_once(
    launcher: str, unchecked: list[object], typed: Typed
) -> None:
    values = ("seed=1,1,2", "optimizer.lr=0.1,1e-1")
    code, out, _ = typed("-m", f"hydra/launcher={launcher}", *values, *CHECK)
    assert code == 0
    assert out == (
        "6 combinations of values make 2 different jobs: what is the same runs once\n"
        "checked: 2 jobs can start\n"
    )
    assert len(unchecked) == 2


@pytest.mark.parametrize(
    ("given", "space"),
    [
        (["experiment=search"], {"optimizer.lr"}),
        (["hydra/sweeper=optuna", "hydra.sweeper.params.optimizer.lr=interval(1,2)"], {"optimizer.lr"}),
        (["hydra/sweeper=optuna", "+hydra.sweeper.params.seed=1,2", "data.val_size=9,8"],
         {"seed", "data.val_size"}),
    ],
)  # fmt: skip
def test_params_of_the_sweeper_are_the_space_of_a_search(
    given: list[str],
    space: set[str],
    mine: tuple[str, ...],
    unchecked: list[object],
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def study(folder: Path, settings: object, found: dict[str, object], shared: str) -> None:
        raise ConfigError(f"searched: {sorted(found)}")

    monkeypatch.setattr("cnnexp.sweeps.sweepers.open_study", study)
    small = [each for each in CHECK if not each.startswith("validate_only")]
    code, _, err = typed(*mine, "-m", *given, *small)
    assert (code, err) == (2, f"cnnexp.train: searched: {sorted(space)}\n")


def test_a_config_that_says_multirun_sweeps_with_the_ledger(
    mine: tuple[str, ...], empty_folder: Path, typed: Typed
) -> None:
    # the model, after which the sweep is called, differs from job to job
    given = [each for each in SMALL if not each.startswith("model=")]
    sweep = (*mine, "experiment=many", *given, "model=lenet5,lenet5", "seed=1,1,1")
    code, out, err = typed(*sweep)
    assert (code, err) == (0, "")
    assert "6 combinations of values make 1 different job: what is the same runs once\n" in out
    assert out.endswith("sweep outputs/sweeps/lenet5: 1 done\n")
    ledger = Ledger(empty_folder / "outputs" / "sweeps" / "lenet5")
    assert ledger.command()[0] == list(sweep)
    assert [entry.state for entry in ledger.entries()] == ["done"]
    longer = tuple(each.replace("model=lenet5,lenet5", "model=lenet5,tiny") for each in sweep)
    code, out, err = typed(*longer)
    assert (code, err) == (0, "")
    assert out.count("is done already") == 1
    assert out.endswith("sweep outputs/sweeps/lenet5: 2 done\n")


def test_folders_and_launcher_of_a_config_hold(mine: tuple[str, ...], empty_folder: Path) -> None:
    composer = Composer("train", config_dir=mine[1])
    config = composer.compose(["experiment=folders"])
    assert run_folder(config).path == Path("own/run")
    assert run_folder(composer.compose([])).path.parent == Path("outputs/train/seed_cnn")
    ours = ["hydra/launcher=local", "hydra.sweep.dir=${output_dir}/sweeps/${sweep.name}"]
    subdir = "hydra.sweep.subdir=${job_id:}"
    assert for_sweep(composer.whole(["seed=1,2"])) == [*ours, subdir]
    assert for_sweep(composer.whole(["experiment=folders"])) == [ours[0], subdir]
    (empty_folder / "mine" / "experiment" / "cluster.yaml").write_text(
        "# @package _global_\ndefaults: [{override /hydra/launcher: slurm}]\n"
    )
    assert for_sweep(composer.whole(["experiment=cluster"])) == [ours[1], subdir]
