"""Networks that torch cannot copy are exported as any other, and left as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.inference import TrainedNetwork, export, load_trained
from cnnexp.runs import RunFolder
from cnnexp.training import Classifier, run_training
from cnnexp.tuning import auto, measure
from tests.nn.test_checkpoint import fake_times


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def _trained(folder: Path) -> TrainedNetwork:
    network = nn.Sequential(
        *(weight_norm(nn.Conv2d(1, 2, 3)), spectral_norm(nn.Conv2d(2, 2, 3)), nn.BatchNorm2d(2)),
        *(nn.Flatten(), prune.l1_unstructured(nn.Linear(32, 4), "weight", 0.3), Extra(4, 3)),
    )
    classifier = Classifier(
        network,
        num_classes=3,
        mean=[0.4],
        std=[0.3],
        optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    )
    return TrainedNetwork(
        classifier=classifier.eval().requires_grad_(False),
        dataset="digits",
        classes=("a", "b", "c"),
        shape=(1, 8, 8),
        folder=RunFolder(folder),
        checkpoint="best.ckpt",
        epoch=1,
        trained_weights=None,
        config={"model": {"_target_": "x"}},
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_safetensors_of_a_network_that_cannot_be_copied(tmp_path: Path) -> None:
    safe = pytest.importorskip("safetensors.torch")
    trained = _trained(tmp_path)
    network = trained.classifier.network
    before = {n: v.clone() for n, v in network.named_buffers()}
    before |= {n: v.clone() for n, v in network.named_parameters()}
    images = torch.rand(2, 1, 8, 8)
    logits = network(images)
    file, difference = export(trained, "safetensors", tmp_path / "net.safetensors")
    assert difference == 0.0
    written = {n: v for n, v in safe.load_file(file).items() if n not in ("mean", "std")}
    assert {f"network.{name}" for name in before} == set(written)
    after = dict(network.named_buffers()) | dict(network.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(network(images), logits)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_number_that_is_not_in_the_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the network itself, which lends its layers, could answer for the file."""
    safe = pytest.importorskip("safetensors.torch")
    save = safe.save_file

    def save_less(state: dict[str, torch.Tensor], *arguments: object, **options: object) -> None:
        name = next(n for n in state if n.endswith("weight_v"))
        save({**state, name: state[name] * 2 + 1}, *arguments, **options)

    monkeypatch.setattr(safe, "save_file", save_less)
    with pytest.raises(RuntimeError, match="gives other logits"):
        export(_trained(tmp_path), "safetensors", tmp_path / "net.safetensors")
    assert not (tmp_path / "net.safetensors").exists()


class Lazy(nn.Sequential):
    """Whatever the images, its layers fit."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            *(nn.LazyConv2d(4, 3, stride=3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.LazyLinear(num_classes)),
        )
        self.add_module("unused", nn.Identity())


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_network_is_trained_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "interleaved_times", fake_times())
    auto.forget()
    overrides = [
        *(f"model._target_={__name__}.Lazy", "data=digits", "data.train_size=64"),
        *("trainer.max_epochs=1", "accelerator=cpu", "diagnostics=off", "logger=csv"),
    ]
    composed = Composer("train").compose(["model=lenet5", *overrides])
    config = {**plain_config(composed), "model": {"_target_": f"{__name__}.Lazy"}}
    job = build_job(config, ["tests."])
    check_job(job, ["tests."])
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run")
    result = run_training(job, folder)
    assert {"0", "1", "5"} <= set(result["backward/layers"])
    trained = load_trained(folder, "last", backward="auto", extra_targets=["tests."])
    assert trained.classifier(torch.rand(2, *trained.shape)).shape == (2, 10)
