"""What cannot be said to ``cnnexp.train``: each gets one sentence, exit code 2, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnexp.config import Composer, plain_config
from cnnexp.runs import RunFolder
from tests.test_train_arguments import CHECK, Typed, typed

__all__ = ["typed"]  # a fixture

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
     "trainer.<key>=…. Did you mean accelerator=ddp? The groups are accelerator, backward, compile, data, "),
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
