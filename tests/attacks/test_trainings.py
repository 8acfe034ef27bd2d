"""The trainings of an attack in real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnexp.attacks.trainings import AttackError, run_trainings
from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.resolvers import register_resolvers
from cnnexp.sweeps.launcher import LauncherSettings
from tests.config.tiny_runs import TINY

SMALL = [f"{key}={value}" for key, value in TINY.items()]
FALL = ("+callbacks.probe._target_=tests.sweeps.probes.Fall", "+callbacks.probe.how=error")


def test_one_that_fails_is_named_and_tried_again(empty_folder: Path) -> None:
    register_resolvers()
    config = plain_config(Composer("train").compose([*SMALL, *FALL]))
    place = empty_folder / "trainings"
    for _ in range(2):
        with pytest.raises(AttackError, match="it cannot go on; the same command tries it again"):
            run_trainings(place, {"x": config}, LauncherSettings(jobs=1, threads=1), ("tests.",))
    (log,) = place.glob("*/train.log")
    assert log.read_text().count("Traceback") == 2


def test_what_cannot_start_leaves_nothing_behind(empty_folder: Path) -> None:
    register_resolvers()
    small = [each for each in SMALL if not each.startswith("data.val_size")]
    config = plain_config(Composer("train").compose([*small, "data.val_size=2000"]))
    with pytest.raises(ConfigError, match="too few for"):
        run_trainings(empty_folder / "trainings", {"x": config}, LauncherSettings(jobs=1))
    assert not (empty_folder / "trainings").exists()
