"""Networks that read their images as they lie in memory get them in plain memory."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.training import run_training
from cnnexp.training.memory_layout import takes_channels_last
from tests.training.resumable import new_folder, small_job


class Views(nn.Module):
    """As in torch's own tutorials."""

    flatten = staticmethod(lambda x: x.view(len(x), -1))

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 13 * 13, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.norm(self.conv(x)).relu()))


class Flattens(Views):
    flatten = staticmethod(lambda x: x.flatten(1))


class Breaks(Views):
    flatten = staticmethod(lambda x: x[:, :3].flatten(1))


@pytest.mark.parametrize(("kind", "expected"), [(Views, False), (Flattens, True), (Breaks, True)])
def test_only_a_view_is_given_plain_memory(
    kind: type[Views], expected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    network, images = kind(), load_digits()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    with caplog.at_level(logging.INFO, "cnnexp"):
        assert takes_channels_last(network, images) is expected
    said = [r.getMessage() for r in caplog.records]
    assert bool(said) is not expected
    assert all("accelerator.channels_last: the network uses .view on its images" in m for m in said)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network.conv.weight.is_contiguous()
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("backward", ["native", "direct", "fused"])
def test_a_network_that_views_trains(tmp_path: Path, backward: str) -> None:
    data = ImageDataModule(load_digits, batch_size=32, val_size=32, train_size=64)
    job = small_job(
        data=data, network=lambda _: Views(), backward=backward, callbacks=list, epochs=1
    )
    result = run_training(job, new_folder(tmp_path / "run"))
    assert result["status"] == "done"
