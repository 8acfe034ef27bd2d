"""Networks of other people's making in a whole run: unused, dressed and lazy layers, things in hand."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.diagnostics import DiagnosticsSettings
from cnnexp.nn import initialise_lazy, layer_algorithms
from cnnexp.runs import RunFolder
from cnnexp.training import run_training
from cnnexp.training.callbacks import ExponentialAverage
from cnnexp.tuning import auto, measure
from tests.nn.test_checkpoint import fake_times
from tests.training.resumable import new_folder, small_job

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated"),
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature"),
]


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "interleaved_times", fake_times())
    auto.forget()
    yield
    auto.forget()


class Others(nn.Module):
    """Nothing of it can be copied, and not all of it is called."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.conv = weight_norm(nn.Conv2d(1, 4, 3, stride=2))
        self.norm = nn.GroupNorm(2, 4)
        self.conv2 = spectral_norm(nn.Conv2d(4, 4, 3))
        self.unused, self.auxiliary = nn.Dropout(), nn.Linear(4, 10)
        self.fc = nn.Linear(4, 10)
        prune.l1_unstructured(self.fc, "weight", 0.2)
        self.lock, self.file, self.act = threading.Lock(), file, lambda x: x.relu()
        self.scale = torch.ones(1, requires_grad=True) * 2
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.act(self.norm(self.conv(x)))
        return self.fc(self.conv2(x).mean((2, 3)) * self.scale.item())

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def _settings(**changes: Any) -> dict[str, Any]:
    data = ImageDataModule(load_digits, batch_size=32, val_size=32, train_size=96)
    return {"data": data, "backward": "auto", "callbacks": list, **changes}


def test_a_run_takes_any_network_and_says_what_stays_torchs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open(__file__) as file:
        _run_twice(tmp_path, caplog, file)


def _run_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture, file: Any) -> None:
    def network(images: Any) -> nn.Module:
        return Others(file)

    folder = new_folder(tmp_path / "run")
    settings = _settings(
        network=network,
        diagnostics=DiagnosticsSettings("full", 2, sharpness_iterations=1),
        callbacks=lambda: [ExponentialAverage(0.9)],
        trainer={"max_epochs": 1, "log_every_n_steps": 1, "accelerator": "cpu"},
    )
    with caplog.at_level(logging.INFO):
        result = run_training(small_job(**settings), folder)
    said = "does not call unused, auxiliary: native, torch's own backward, is kept there"
    assert caplog.text.count(said) == 1
    assert caplog.text.count("torch's own backward stays in GroupNorm ×1") == 1
    assert "no graph of this network" not in caplog.text
    layers = yaml.safe_load(folder.config.read_text(encoding="utf-8"))["backward"]["layers"]
    assert set(layers) == {"conv", "conv2", "unused", "auxiliary", "fc"}
    assert layers["unused"] == layers["auxiliary"] == "native"
    assert result["backward/layers"] == layers

    caplog.clear()  # the choices, read again
    settings |= {"diagnostics": DiagnosticsSettings("off"), "backward_layers": layers}
    again = small_job(**settings)
    with caplog.at_level(logging.INFO):
        repeated = run_training(again, new_folder(tmp_path / "again"))
    assert "does not call" not in caplog.text
    assert repeated["backward/layers"] == layers
    assert repeated["train/loss"] == result["train/loss"]


def test_choosing_and_looking_change_no_bit_of_a_training(tmp_path: Path) -> None:
    def network(images: Any) -> nn.Module:
        return nn.Sequential(
            *(spectral_norm(nn.Conv2d(1, 4, 3, stride=3)), nn.BatchNorm2d(4), nn.Dropout(0.2)),
            *(nn.Flatten(), nn.Linear(4 * 81, 10)),
        )

    settings = _settings(network=network, diagnostics=DiagnosticsSettings("off"), epochs=1)
    job = small_job(**settings)
    folder = new_folder(tmp_path / "measured")
    result = run_training(job, folder)
    layers = yaml.safe_load(folder.config.read_text(encoding="utf-8"))["backward"]["layers"]
    given = new_folder(tmp_path / "given")
    run_training(small_job(**settings, backward_layers=layers), given)
    one, other = (_weights(f) for f in (folder, given))
    assert result["backward/layers"] == layers
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def _weights(folder: RunFolder) -> dict[str, Tensor]:
    return torch.load(folder.last_checkpoint, weights_only=True)["state_dict"]


def test_lazy_layers_have_their_shapes_before_anything_looks_at_them(tmp_path: Path) -> None:
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    before = torch.get_rng_state()
    initialise_lazy(network, torch.zeros(()).expand(2, 1, 8, 8))
    assert not torch.equal(torch.get_rng_state(), before)  # weights were drawn
    assert [type(m) for m in network] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
    assert network.training
    assert layer_algorithms(network) == {}
    state = torch.get_rng_state()
    initialise_lazy(network, "never looked at")
    assert torch.equal(torch.get_rng_state(), state)
