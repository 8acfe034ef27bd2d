"""A run whose convolutions recompute: measured on its way, stopped and resumed, with the same numbers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from cnnexp.training import TrainingStopped, read_checkpoint, run_training
from tests.nn.residual import Block, Functions
from tests.training.resumable import Stop, new_folder, same, small_job


def _network(_images: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2),
        nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def test_a_run_with_all_diagnostics_has_the_same_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"network": _network, "backward": "fused", "epochs": 2}
    whole, stopped = new_folder(tmp_path / "whole"), new_folder(tmp_path / "stopped")
    with caplog.at_level(logging.INFO):
        run_training(small_job(**settings), whole)
        assert "compute again" not in caplog.text
        with pytest.raises(TrainingStopped):
            run_training(small_job(Stop(), **settings, recompute=True), stopped)
        run_training(small_job(**settings, recompute=True), stopped, resume=True)
    assert caplog.text.count("what 2 normalisations give is computed again") == 2
    one, other = (
        read_checkpoint(folder.checkpoints / "last.ckpt")["state_dict"]
        for folder in (whole, stopped)
    )
    assert same(one, other)


@pytest.mark.parametrize("kind", [Block, Functions])
def test_it_says_how_many_sums_are_computed_again(
    kind: type[Block], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second block adds two normalisations."""

    def network(_images: Any) -> nn.Module:
        start, end = nn.Conv2d(1, 4, 3, stride=4), nn.Conv2d(6, 10, 1)
        mean = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(start, nn.BatchNorm2d(4), nn.ReLU(), kind(4), kind(4, 2), end, *mean)

    settings: dict[str, Any] = {"network": network, "backward": "fused", "epochs": 1}
    with caplog.at_level(logging.INFO):
        run_training(
            small_job(**settings, recompute=True, functions=True), new_folder(tmp_path / "run")
        )
    assert "what 6 normalisations and 2 sums give is computed again" in caplog.text
