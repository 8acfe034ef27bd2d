"""A run whose network calls its activations and poolings itself, as functions."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnexp.nn import ConvReLUPool, replace_layers
from cnnexp.nn.deferring import Deferring
from cnnexp.nn.fuse import fusable_functions
from cnnexp.privacy import PrivacySettings
from cnnexp.training import TrainingStopped, read_checkpoint, run_training
from cnnexp.training.backward import say_what_waits
from tests.nn.calls import CALLS, Calls
from tests.training.resumable import Stop, new_folder, same, small_job


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.bn, self.drop, self.fc = nn.BatchNorm2d(8), nn.Dropout(0.2), nn.Linear(1568, 10)

    def forward(self, input: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(input)), 2)
        return self.fc(self.drop(F.relu(self.bn(self.conv2(x))).flatten(1)))


def _settings() -> dict[str, Any]:
    return {"network": lambda _images: _Network(), "backward": "fused", "epochs": 2}


def test_it_is_stopped_and_resumed_with_all_diagnostics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, stopped, plain = (new_folder(tmp_path / name) for name in ("whole", "stopped", "plain"))
    asked = {**_settings(), "functions": True}
    with caplog.at_level(logging.INFO):
        run_training(small_job(**asked), whole)
        assert "that follows in the network's code: 2" in caplog.text
        with pytest.raises(TrainingStopped):
            run_training(small_job(Stop(), **asked), stopped)
        run_training(small_job(**asked), stopped, resume=True)
        assert "itself calls" not in caplog.text
        run_training(small_job(**_settings()), plain)
        assert (
            "itself calls an activation or a pooling: 2; with backward.functions=true"
            in caplog.text
        )
    one, other, without = (
        read_checkpoint(folder.checkpoints / "last.ckpt")["state_dict"]
        for folder in (whole, stopped, plain)
    )
    assert same(one, other)
    assert one.keys() == without.keys()
    torch.testing.assert_close(one, without, rtol=0.05, atol=0.05)  # sums in another order


@pytest.mark.parametrize("name", CALLS)
def test_it_tells_of_as_many_blocks_as_there_would_be(name: str) -> None:
    network = replace_layers(Calls(CALLS[name][0]), "fused", quiet=True)
    told = fusable_functions(network)
    assert not any(isinstance(each, Deferring) for each in network.modules())
    replace_layers(network, "fused", functions=True, quiet=True)
    assert told == sum(isinstance(each, Deferring) for each in network.modules())


def test_it_tells_of_none_where_all_are_made() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
    replace_layers(network, "fused", quiet=True)
    assert isinstance(network[0], ConvReLUPool)
    assert fusable_functions(network) == 0


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({"compile": "on"}, "torch.compile"),
        ({"privacy": PrivacySettings("dp_sgd", epsilon=2.0)}, "a private grad"),
    ],
)
def test_it_says_where_functions_do_nothing(
    changes: dict[str, Any], who: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = small_job(**_settings(), **changes, functions=True)
    network = job.with_backward(_Network())
    with caplog.at_level(logging.INFO):
        say_what_waits(job, network)
        assert f"backward.functions does nothing here: {who}" in caplog.text
        caplog.clear()
        say_what_waits(replace(job, functions=False), job.with_backward(_Network()))
    assert caplog.text == ""
