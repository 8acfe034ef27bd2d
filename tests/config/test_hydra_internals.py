"""What cnnexp uses of Hydra's private interface does what its name says, with this Hydra."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from cnnexp.config.arguments import read_arguments
from cnnexp.config.hydra_internals import (
    flags_parser,
    hand_to_hydra,
    hydra_of,
    is_basic_sweeper,
    split_into_jobs,
)


def _tree(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


def test_the_parser_knows_hydras_flags_and_overrides() -> None:
    parser = argparse.ArgumentParser(parents=[flags_parser()], add_help=False)
    flags = parser.parse_args(["-m", "seed=1,2", "--cfg", "job", "-cd", "there"])
    assert flags.multirun
    assert (flags.overrides, flags.cfg, flags.config_dir) == (["seed=1,2"], "job", "there")
    assert (flags.config_path, flags.experimental_rerun, flags.shell_completion) == (
        *(None, None),
        False,
    )


def test_a_command_is_run_with_flags_that_were_read_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["some", "seed=3"])
    tree = _tree(tmp_path / "tree", train="seed: 0\n")
    parser, flags = read_arguments(["seed=2", "hydra.run.dir=out", "hydra.output_subdir=null"])
    seen: list[Any] = []
    hand_to_hydra(parser, flags, tree, lambda config: seen.append(config.seed))
    assert seen == [2]


def test_hydra_composes_and_what_was_there_before_comes_back(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree", root="a: 1\nb: 2\n")
    more = _tree(tmp_path / "more", root="a: 3\n", other="a: 4\n")
    GlobalHydra.instance().clear()
    with hydra_of("root", tree) as hydra:
        assert hydra.compose_config("root", ["b=5"], RunMode.RUN, False).b == 5
        assert GlobalHydra.instance().is_initialized()
        with hydra_of("root", tree, more) as other:
            assert other.compose_config("root", [], RunMode.RUN, False).a == 1
            assert other.compose_config("other", [], RunMode.RUN, False).a == 4
        assert GlobalHydra.instance().is_initialized()
        swept = hydra.compose_config(
            "root", ["a=1,2"], RunMode.MULTIRUN, False, validate_sweep_overrides=False
        )
        assert swept.a == 1  # what is swept keeps its default
    assert not GlobalHydra.instance().is_initialized()


def test_the_sweeper_of_hydra_is_known_by_its_name(tmp_path: Path) -> None:
    with hydra_of("root", _tree(tmp_path, root="a: 1\n")) as hydra:
        sweeper = hydra.compose_config("root", [], RunMode.MULTIRUN, False).hydra.sweeper
    assert is_basic_sweeper(sweeper["_target_"])
    assert not is_basic_sweeper("hydra_plugins.cnnexp_sweepers.optuna.OptunaSweeper")


def test_a_sweep_is_split_as_hydra_does_it() -> None:
    parsed = OverridesParser.create().parse_overrides(["a=1,2", "b=range(2)", "c=x"])
    assert split_into_jobs(parsed) == [
        ["a=1", "b=0", "c=x"],
        ["a=1", "b=1", "c=x"],
        ["a=2", "b=0", "c=x"],
        ["a=2", "b=1", "c=x"],
    ]
