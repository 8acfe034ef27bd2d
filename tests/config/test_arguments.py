"""Flags and overrides of a command line, and the hints of its messages."""

from __future__ import annotations

import pytest

from cnnexp.config import ConfigError
from cnnexp.config.arguments import read_arguments
from cnnexp.suggestions import did_you_mean


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


def test_a_class_belongs_to_its_part() -> None:
    known = ["seed", "data._target_", "optimizer._target_", "optimizer.lr", "logger.csv._target_"]
    assert did_you_mean("logger._target_", known) == " Did you mean 'logger.csv._target_'?"
    assert did_you_mean("seed._target_", known) == ""
    assert did_you_mean("optim._target_", known) == " Did you mean 'optimizer._target_'?"
    assert did_you_mean("lr", known) == " Did you mean 'optimizer.lr'?"
    assert did_you_mean("model.lr", known) == " Did you mean 'optimizer.lr'?"
