"""``data.folds`` and ``data.fold`` on a command line: what follows from them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.check import check_types
from cnnexp.runs import RunFolder, config_hash

FOLDS = ("data=digits", "data.folds=5", "data.fold=2")


def _data(*overrides: str) -> dict[str, Any]:
    config = plain_config(Composer("train").compose(overrides))
    check_types(config)
    return config["data"]


def test_the_fold_validates_and_is_the_same_for_every_seed() -> None:
    for seed in (0, 4):
        data = _data(*FOLDS, f"seed={seed}")
        assert (data["val_size"], data["split_seed"]) == (None, 0)
    assert _data(*FOLDS, "data.split_seed=3", "seed=4")["split_seed"] == 3
    assert _data(*FOLDS, "data.split_seed=${seed}", "seed=4")["split_seed"] == 4
    plain = _data("data=digits", "seed=4")
    assert (plain["val_size"], plain["split_seed"]) == (144, 4)


def test_a_runs_config_makes_the_same_job_again(tmp_path: Path) -> None:
    config = plain_config(Composer("train").compose([*FOLDS, "seed=4"]))
    RunFolder(tmp_path).write_config(config)
    again = plain_config(Composer("config", config_dir=str(tmp_path)).compose([]))
    assert config_hash(again) == config_hash(config)
    assert again["data"] == config["data"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.folds=5"], r'^data\.fold is missing: .*-m data\.folds=5 "data\.fold=range\(5\)"$'),
        (["data.fold=1"], r"^data\.fold=1: is one of data\.folds parts"),
        (["data.folds=1", "data.fold=0"], r"^data\.folds=1: must be at least 2"),
        (["data.folds=5", "data.fold=5"], r"^data\.fold=5: must be from 0 to 4"),
        (["data.folds=5", "data.fold=-1"], r"^data\.fold=-1: must be from 0 to 4"),
        (
            [*FOLDS, "data.val_size=0.2"],
            r"^data\.val_size=0\.2: with data\.folds=5 the fold is what",
        ),
        (["data.val_size=null"], r"^data\.val_size=null: must be a number of images"),
        ([*FOLDS, "data.split_seed=-1"], r"^data\.split_seed=-1: must be between 0 and"),
        (["data.folds=many", "data.fold=0"], r"^data\.folds=many: must be a whole number"),
    ],
)
def test_what_does_not_go_together_is_said(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _data("data=digits", *overrides)


def test_a_data_set_of_ones_own_takes_folds_by_a_plus(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(
        "_target_: cnnexp.data.load_digits\nval_size: 0.2\n"
    )
    composer = Composer("train", config_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"data\.folds=3: not set in .* add \+data\.folds=3$"):
        composer.compose(["data=mine", "data.folds=3"])
    config = plain_config(
        composer.compose(["data=mine", "+data.folds=3", "+data.fold=0", "seed=2"])
    )
    typed = check_types(config).data
    assert (typed.folds, typed.fold, typed.val_size, typed.split_seed) == (3, 0, None, 0)
