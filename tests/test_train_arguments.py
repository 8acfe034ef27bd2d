"""The command line of ``cnnexp.train`` as Hydra's users type it: it works, or one sentence says why not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from cnnexp import train
from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.arguments import read_arguments
from cnnexp.config.errors import did_you_mean
from cnnexp.config.hydra_settings import for_sweep
from cnnexp.runs import RunFolder
from cnnexp.sweeps import Ledger

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
    images = SimpleNamespace(images=SimpleNamespace(checksum="0"))

    def check(composed: object, config: object, *rest: object) -> SimpleNamespace:
        noted.append(config)
        return SimpleNamespace(data=images)

    monkeypatch.setattr(train, "_checked", check)
    monkeypatch.setattr(train, "warm_up", lambda: None)
    return noted


@pytest.mark.parametrize(
    ("arguments", "overrides", "flags"),
    [
        (["a=1", "-m", "b=1,2"], ["a=1", "b=1,2"], {"multirun": True}),
        (["-m", "a=1", "b=2"], ["a=1", "b=2"], {"multirun": True}),
        (["a=1", "--multirun"], ["a=1"], {"multirun": True}),
        (["a=1", "--cfg", "job", "b=2", "-p", "model"], ["a=1", "b=2"], {"package": "model"}),
        (["a=1", "-cn", "x", "b=2", "-cd", "y"], ["a=1", "b=2"], {"config_dir": "y"}),
        (["a=1", "--info", "defaults", "b=2"], ["a=1", "b=2"], {"info": "defaults"}),
        (["a=1", "--", "b=2"], ["a=1", "b=2"], {}),
        (
            ["~a", "+b=1", "++c='x y'", "d=", "seed=-1"],
            ["~a", "+b=1", "++c='x y'", "d=", "seed=-1"],
            {},
        ),
    ],
)
def test_flags_stand_anywhere(
    arguments: list[str], overrides: list[str], flags: dict[str, object]
) -> None:
    found = read_arguments(arguments)[1]
    assert found.overrides == overrides
    assert {key: getattr(found, key) for key in flags} == flags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--lr=0.1"],
            r"^--lr=0\.1: there is no flag --lr\. A setting has no dashes, as in lr=0\.1; --he",
        ),
        (["--multirn", "a=1"], r"there is no flag --multirn\. Did you mean '--multirun'\?"),
        (["-x"], r"^-x: there is no flag -x\."),
        (
            ["--cfg", "jobb"],
            r"--cfg/-c: invalid choice: 'jobb' .*; --help shows the settings, --hydra-h",
        ),
        (["--config-dir"], r"--config-dir/-cd: expected one argument"),
        (["--info", "a=1"], r"--info/-i: invalid choice: 'a=1'"),
        (["-m", "--cfg", "job"], r"^--multirun and --cfg exclude each other; give one of them"),
        (["-r", "-m"], r"^--run and --multirun exclude each other"),
        (["--info", "--cfg", "job"], r"^--cfg and --info exclude each other"),
        (["--resolve"], r"^--resolve goes with --cfg or --help"),
        (["-p", "model"], r"^--package=model: goes with --cfg job\|hydra\|all"),
        (
            ["--experimental-rerun", "x"],
            r"^--experimental-rerun=x: is not offered.*--config-name config",
        ),
        (
            ["-sc"],
            r"^--shell-completion : must be followed by install=<shell> .* out of bash, fish, zsh",
        ),
        (["-sc", "install=tcsh"], r"^--shell-completion install=tcsh: must be followed by"),
        (
            ["-sc", "query=bash"],
            r"^--shell-completion query=bash: is what a shell asks; .*install=bash",
        ),
    ],
)
def test_flags_that_cannot_be(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_arguments(arguments)


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
    def study(folder: Path, settings: object, found: dict[str, object]) -> None:
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
    assert train._run_folder(config).path == Path("own/run")
    assert train._run_folder(composer.compose([])).path.parent == Path("outputs/train/seed_cnn")
    ours = ["hydra/launcher=local", "hydra.sweep.dir=${output_dir}/sweeps/${sweep.name}"]
    subdir = "hydra.sweep.subdir=${job_id:}"
    assert for_sweep(composer.whole(["seed=1,2"])) == [*ours, subdir]
    assert for_sweep(composer.whole(["experiment=folders"])) == [ours[0], subdir]
    (empty_folder / "mine" / "experiment" / "cluster.yaml").write_text(
        "# @package _global_\ndefaults: [{override /hydra/launcher: slurm}]\n"
    )
    assert for_sweep(composer.whole(["experiment=cluster"])) == [ours[1], subdir]


MISUSE = [
    (["hydra.mode=SWEEP"], "hydra.mode=SWEEP: hydra.mode: Invalid value 'SWEEP', expected one of"),
    (["hydra.sweeper.params.seed=1,2"], "is for sweeps: python -m cnnexp.train -m hydra.sweeper.pa"),
    (["hydra/launcher='local'"], "hydra/launcher='local': is for sweeps: python -m cnnexp.train -m"),
    (["-m", "run=latest"], "run=latest: a sweep is resumed by its own command; run=… resumes a"),
    (["-m", "which=best"], "which=best: a sweep is resumed by its own command"),
    (["which=best"], "which=best: goes with cnnexp.evaluate, predict, explain and export"),
    (["-m", "hydra.launcher.jobs=1,2"], "cannot be swept; for a list, write hydra.launcher.jobs=[a,b]"),
    (["-m", "hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: a job's folder is named by the hash of its"),
    (["-m", "hydra.sweep.dir="], "hydra.sweep.dir=: names no folder; write hydra.sweep.dir=<path>"),
    (["-m", "hydra.sweep.dir=${x}"], "hydra.sweep.dir=${x}: Interpolation key 'x' not found"),
    (["hydra.run.dir="], "hydra.run.dir=: names no folder; write hydra.run.dir=<path>"),
    (["hydra.run.dir=${x}"], "hydra.run.dir=${x}: Interpolation key 'x' not found"),
    (["-m", "hydra.job.chdir=true"], "hydra.job.chdir=true: jobs stay in the folder of the command"),
    (["-m", "+hydra.job.env_set.A=1"], "hydra.job.env_set={'A': '1'}: jobs have the environment of th"),
    (["hydra.job.env_copy=[NOPE]"], "hydra.job.env_copy: 'NOPE' is not in the environment"),
    (["-m", "hydra.sweeper.max_batch_size=0"], "max_batch_size=0: must be a whole number, at least 1"),
    (["hydra.searchpath=[file://no]"], "hydra.searchpath: there is no such folder (provider=hydra.sea"),
    (["hydra=x"], "hydra=x: Hydra's own settings have keys, as in hydra.run.dir=…"),
    (["-m", "seed=range(0)"], "seed=range(0): leaves no value to run; a sweep needs one at least"),
    (["-m", "model=glob(zz*)"], "model=glob(zz*): leaves no value to run"),
    (["-m", "+hydra.sweeper.params.seed=interval(1,2)"], "seed=interval(1,2): Hydra's own sweeper tri"),
    (["seed=1,2"], "seed=1,2: to run each value, add -m (for a list, write [a,b])"),
    (["seed=choice(1,2)"], "seed=choice(1,2): to run each value, add -m"),
    (["model=glob(*)"], "model=glob(*): to run each value, add -m"),
    (["seed=interval(1,2)"], "seed=interval(1,2): to run each value, add -m"),
    (["logger._target_=a.B"], "logger._target_=a.B: logger holds as many as you like, each under a name: "
     "+logger.<name>._target_=…. Did you mean 'logger.tensorboard._target_'?"),
    (["+logger._target_=a.B"], "logger holds as many as you like, each under a name: +logger.<name>._t"),
    (["callbacks._target_=a.B"], "each under a name: +callbacks.<name>._target_=…\n"),
    (["trainer=ddp"], "trainer=ddp: there is no group 'trainer' to choose from; set its values, "
     "trainer.<key>=…. Did you mean accelerator=ddp? The groups are accelerator, backward, data, "),
    (["trainer=default"], "Devices are chosen by accelerator=auto|cpu|ddp|ddp_cpu|fsdp|gpu|mps."),
    (["checkpoint=val/loss"], "checkpoint=val/loss: there is no group 'checkpoint' to choose from"),
    (["callbacks=early"], "callbacks=early: there is no group 'callbacks' to choose from"),
    (["~optimizer"], "optimizer is missing from the config, and a run needs it"),
    (["~x"], "~x: there is no key 'x' in the config."),
    (["~optimizer.lrr"], "~optimizer.lrr: there is no key 'optimizer.lrr' in the config. Did you mean"),
    (["+seed=1"], "+seed=1: the config has seed already; write seed=1"),
    (["+optimizer=sgd"], "+optimizer=sgd: the config has a choice of optimizer already; write optimizer=sgd"),
    (["optimizer@x=sgd"], "optimizer@x=sgd: no optimizer is chosen for a part 'x'; write optimizer=sgd"),
    (["+optimizer@x=sgd"], "x: there is no key 'x' in the config"),
    (["seed=1.5"], "seed=1.5: must be a whole number"),
    (["seed="], "seed=: must be a whole number"),
    (["seed=null"], "seed=null: must have a value"),
    (["seed=true"], "seed=True: must be a whole number"),
    (["name=a/b"], "cnnexp.train: name='a/b': must be a plain folder name"),
    (["optimizer="], "optimizer=: unknown choice; known: adadelta, "),
    (["=1"], "cannot read '=1'; write group=choice or key=value"),
    (["optimizer.lr=${oc.env:LR,0.01}"], "optimizer.lr=0.01: must be a number, but is text; the environment "
     "holds text alone, and oc.decode reads the value from it: "
     "'optimizer.lr=\"${oc.decode:${oc.env:LR,0.01}}\"'"),
    (["seed=${oc.env:SEED,x}"], "seed=x: must be a whole number; the environment holds text alone"),
    (["optimizer.lr=${oc.decode:${oc.env:LR,1}}"], "put the value into quotes, 'optimizer.lr=\"${oc.dec"),
    (["optimizer.lr=${oc.env:NOPE}"], "optimizer.lr: KeyError raised while resolving interpolation: "
     "\"Environment variable 'NOPE' not found\""),
    (["--cfg", "job", "-p", "optimiser"], "--package=optimiser: --cfg job has no such part. Did you mean 'o"),
    (["--cfg", "job", "-p", "hydra"], "--package=hydra: --cfg job has no such part."),
    (["--cfg", "job", "--resolve", "name=${x}"], "Interpolation key 'x' not found"),
    (["--help", "--resolve", "name=${x}"], "Interpolation key 'x' not found"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISUSE, ids=lambda v: "")
def test_each_gets_its_sentence(
    arguments: list[str], message: str, empty_folder: Path, typed: Typed
) -> None:
    code, out, err = typed(*arguments, "data=digits")
    assert (code, out) == (2, "")
    assert err.startswith("cnnexp.train: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimizer=[adam]"],
        ["optimizer.lr='${oc.decode:${oc.env:LR,0.01}}'"],
        ["++optimizer.lr=0.1", "~optimizer.betas", "name=a b"],
        ["hydra.job.name=x", "hydra.run.dir=here", "hydra.mode=RUN"],
        ["-r", "name='it is, a=name'"],
    ],
)
def test_each_of_these_works(arguments: list[str], typed: Typed) -> None:
    assert typed(*arguments, *CHECK) == (0, "checked: this run can start\n", "")


@pytest.fixture
def stopped(empty_folder: Path) -> RunFolder:
    """A run that was stopped in its first epoch."""
    folder = RunFolder(Path("outputs/train/lenet5/then"))
    folder.path.mkdir(parents=True)
    small = [each for each in CHECK if not each.startswith("validate_only")]
    folder.write_config(plain_config(Composer("train").compose(small)))
    folder.write_status("stopped", epoch=0, step=1)
    return folder


FREE = "may change trainer.max_epochs, trainer.enable_progress_bar, checkpoint.every_n_steps, data.root"


@pytest.mark.parametrize(
    ("override", "messages"),
    [
        ("optimizer=sgd", ["optimizer=sgd: a run that is resumed keeps its optimizer. It " + FREE,
                           "for anything else start a new run"]),
        ("accelerator=gpu", ["keeps its accelerator; write accelerator.name=gpu. It " + FREE]),
        ("experiment=tiny", ["experiment=tiny: a run that is resumed keeps its experiment."]),
        ("seed=5", ["seed was 0 and cannot become 5 in the middle of a run; start a new run for that. "
                    "A run that is resumed " + FREE]),
        ("lr=1", ["lr=1: there is no key 'lr' in the config. Did you mean 'optimizer.lr'?"]),
        ("+x=1", ["x: there is no key 'x' in the config"]),
    ],
)  # fmt: skip
def test_what_a_run_that_is_resumed_may_change_is_said(
    override: str, messages: list[str], stopped: RunFolder, typed: Typed
) -> None:
    code, out, err = typed("run=latest", override)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert all(message in err for message in messages), err


def test_a_class_belongs_to_its_part() -> None:
    known = ["seed", "data._target_", "optimizer._target_", "optimizer.lr", "logger.csv._target_"]
    assert did_you_mean("logger._target_", known) == " Did you mean 'logger.csv._target_'?"
    assert did_you_mean("seed._target_", known) == ""
    assert did_you_mean("optim._target_", known) == " Did you mean 'optimizer._target_'?"
    assert did_you_mean("lr", known) == " Did you mean 'optimizer.lr'?"
    assert did_you_mean("model.lr", known) == " Did you mean 'optimizer.lr'?"
