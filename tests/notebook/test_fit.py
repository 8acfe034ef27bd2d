"""Training from a program: names, objects, settings, resuming, mistakes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import cnnexp
from cnnexp.config import ConfigError
from cnnexp.data import ImageDataModule, as_image_set, load_synthetic
from cnnexp.execution.folders import RunFolder
from cnnexp.notebook.overrides import overrides_of

QUIET: dict[str, Any] = {"progress": False, "accelerator": "cpu", "backward": "direct"}
SMALL: dict[str, Any] = {"data.size": 60, "data.val_size": 10, "data.image_size": 8}


class Net(nn.Module):
    """One linear layer."""

    def __init__(self, in_channels: int = 1, num_classes: int = 3, wide: int = 8) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(in_channels * 64, wide), nn.Linear(wide, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(x.flatten(1))))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _pair(count: int = 90) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 8, 8), generator=generator) + 60 * labels.view(-1, 1, 1)
    return images.to(torch.uint8), labels


def test_names_give_a_run_folder_like_that_of_the_command() -> None:
    overrides = {**SMALL, "trainer.log_every_n_steps": 2}
    run = cnnexp.fit("tiny", "synthetic", optimizer="sgd", lr=0.05, epochs=2, seed=3,
                     overrides=overrides, **QUIET)  # fmt: skip
    assert run.folder.parts[:3] == ("outputs", "train", "tiny")
    for name in ("config.yaml", "provenance.json", "result.json", "metrics.csv", "train.log"):
        assert (run.folder / name).stat().st_size, name
    assert run.config["optimizer"]["lr"] == 0.05
    assert run.config["optimizer"]["_target_"] == "torch.optim.SGD"
    assert run.result["epochs"] == len(run.metrics) == 2
    assert run.result["seed"] == 3
    assert run.metrics["val/acc"][-1] == pytest.approx(run.metrics[-1]["val/acc"])
    assert not run.network.training
    loaded = cnnexp.load_run(run.folder)
    assert loaded.result == run.result
    assert loaded.metrics["train/loss"] == run.metrics["train/loss"]
    for mine, theirs in zip(run.network.parameters(), loaded.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    images = torch.rand(2, *loaded.shape)
    assert torch.allclose(run.predict(images).sum(1), torch.ones(2))
    whole = (images * 255).to(torch.uint8)
    assert torch.equal(run.predict(whole), run.predict(whole / 255))
    assert repr(run) == (
        f"Run {run.folder}: test/acc {run.result['test/acc']:.4g}, val/acc {run.result['val/acc']:.4g} "
        f"after 2 epochs"
    )


def test_a_module_is_trained_as_a_copy_and_loaded_with_one_like_it() -> None:
    network, data = Net(), _pair()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    run = cnnexp.fit(network, data, epochs=2, lr=0.01, batch_size=16, **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert run.config["name"] == "net"
    assert run.result["val/acc"] is not None
    assert not torch.equal(run.network.get_parameter("last.weight"), network.last.weight)
    for model in (network, Net):
        loaded = cnnexp.load_run(run.folder, model=model)
        assert torch.equal(
            loaded.network.get_parameter("last.weight"), run.network.get_parameter("last.weight")
        )
    with pytest.raises(ConfigError, match=r"network 'Net' was given as an object.*model=Net"):
        cnnexp.load_run(run.folder)
    with pytest.raises(cnnexp.inference.TrainedNetworkError, match=r"not of the network.*differ"):
        cnnexp.load_run(run.folder, model=Net(wide=5))


def test_a_class_is_made_for_the_data_with_the_weights_of_the_seed() -> None:
    runs = [cnnexp.fit(Net, _pair(), epochs=1, seed=seed, **QUIET) for seed in (0, 0, 1)]
    one, same, other = (run.network.get_parameter("hidden.weight") for run in runs)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == (8, 64)
    with pytest.raises(ConfigError, match=r"the config of .* names the run's network itself"):
        cnnexp.load_run(
            cnnexp.fit("tiny", "synthetic", epochs=1, overrides=SMALL, **QUIET).folder, model=Net
        )


def test_a_run_of_objects_is_resumed_with_them_to_the_same_bits() -> None:
    network, data = Net(), _pair()
    whole = cnnexp.fit(network, data, epochs=3, **QUIET)
    part = cnnexp.fit(network, data, epochs=1, **QUIET)
    folder = part.folder
    longer = cnnexp.fit(network, data, resume=part, epochs=3, progress=False)
    assert longer.folder == folder
    assert longer.result["epochs"] == 3
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, longer.network.state_dict()[name]), name
    with pytest.raises(ConfigError, match="is done already"):
        cnnexp.fit(network, data, resume=folder, progress=False)
    with pytest.raises(ConfigError, match=r"model.key was .* and cannot become"):
        cnnexp.fit(Net(wide=4), data, resume=folder, epochs=4, progress=False)
    with pytest.raises(ConfigError, match=r"data.checksum was .* and cannot become"):
        cnnexp.fit(network, _pair(60), resume=folder, epochs=4, progress=False)
    with pytest.raises(ConfigError, match="was given as an object, which no config can name"):
        cnnexp.fit(None, data, resume=folder, epochs=4, progress=False)
    with pytest.raises(ConfigError, match="model=tiny: a run that is resumed keeps its model"):
        cnnexp.fit("tiny", data, resume=folder, epochs=4, progress=False)


class Module(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        images, labels = _pair()
        return DataLoader(TensorDataset(images.unsqueeze(1) / 255, labels), batch_size=8)

    val_dataloader = test_dataloader = train_dataloader


def test_data_of_any_kind_become_the_same_images() -> None:
    images, labels = _pair()
    arrays = images.numpy(), labels.numpy()
    pairs = TensorDataset(images.unsqueeze(1), labels)
    found = [
        as_image_set((images, labels)), as_image_set(arrays), as_image_set(pairs),
        as_image_set((images / 255, labels)), as_image_set([*zip(images, labels, strict=True)]),
    ]  # fmt: skip
    assert len({each.checksum for each in found}) == 1
    assert (len(found[0].train), len(found[0].test)) == (75, 15)
    assert found[0].classes == ("0", "1", "2")
    named = as_image_set(arrays, arrays, classes=("a", "b", "c"))
    assert (len(named.train), len(named.test), named.classes) == (90, 90, ("a", "b", "c"))
    module = as_image_set(Module())
    assert module.val is not None
    assert torch.equal(module.train.batch(torch.arange(90))[0].squeeze(1), images)
    synthetic = load_synthetic(20)
    assert as_image_set(synthetic) is synthetic
    assert as_image_set(ImageDataModule(lambda: synthetic)) is synthetic


class _Flipped(Dataset):
    """Each image as it is or mirrored, as torchvision's ``RandomHorizontalFlip`` gives it."""

    def __len__(self) -> int:
        return 90

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        image, label = _pair()[0][place], int(_pair()[1][place])
        return (image.flip(1) if torch.rand(()) < 0.5 else image).unsqueeze(0), label


def test_a_data_set_that_draws_its_images_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(
        ValueError, match=r"data: item \d of _Flipped is another image each time; leave"
    ):
        as_image_set(_Flipped())
    with pytest.raises(ConfigError, match="leave random transforms out"):
        cnnexp.fit("tiny", _Flipped(), epochs=1, **QUIET)


def test_a_data_module_brings_its_validation_images() -> None:
    run = cnnexp.fit(Net, Module(), epochs=1, **QUIET)
    assert run.config["data"]["val_size"] == 0
    sizes = RunFolder(run.folder).read_provenance()["dataset"]["sizes"]
    assert sizes == [90, 90, 90]


def test_a_file_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    checksums = []
    for shift in (0, 1):
        images, labels = _pair()
        np.savez(tmp_path / "mine.npz", images=images.numpy(), labels=(labels.numpy() + shift) % 3)
        run = cnnexp.fit("tiny", "arrays", epochs=1, overrides={"data.file": "mine.npz"}, **QUIET)
        checksums.append(RunFolder(run.folder).read_provenance()["dataset"]["checksum"])
    assert checksums[0] != checksums[1]


def test_our_data_module_brings_its_split_and_batches() -> None:
    own: dict[str, Any] = {
        "batch_size": 8,
        "eval_batch_size": 9,
        "val_size": 0.5,
        "train_size": 16,
        "split_seed": 3,
        "folds": None,
        "fold": None,
        "num_workers": 0,
    }
    module = ImageDataModule(lambda: load_synthetic(40, image_size=8, num_classes=3), **own)
    run = cnnexp.fit(Net, module, epochs=1, **QUIET)
    assert {key: run.config["data"][key] for key in own} == own
    assert RunFolder(run.folder).read_provenance()["dataset"]["sizes"][0] == 16
    folds = {"folds": 2, "fold": 1, "val_size": None, "split_seed": 0}
    overrides = ["data.folds=2", "data.fold=1"]
    other = cnnexp.fit(Net, module, epochs=1, batch_size=4, overrides=overrides, **QUIET)
    assert {key: other.config["data"][key] for key in own} == own | folds | {"batch_size": 4}


def test_what_eight_bits_cannot_hold_is_said(caplog: pytest.LogCaptureFixture) -> None:
    images, labels = _pair()
    as_image_set((images / 300, labels), (images, labels))
    assert "data: images are kept as 8 bits a channel, rounded to 1/255" in caplog.text


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "tinny"}, r"model=tinny: unknown choice.*Did you mean 'tiny'"),
    "data": ({"data": "mnis"}, r"data=mnis: unknown choice.*Did you mean 'mnist'"),
    "optimizer": ({"optimizer": "adm"}, r"optimizer=adm: unknown choice.*Did you mean 'adam'"),
    "unknown": ({"epoch": 3}, r"epoch=3: there is no key 'epoch' in the config"),
    "type": ({"lr": "high"}, r"optimizer.lr=high: must be a number"),
    "no config value": ({"lr": nn.ReLU()}, r"optimizer.lr=ReLU\(\): a ReLU has no place in a config"),
    "number as model": ({"model": 3}, "model=3: must be a name such as 'lenet5', a Module"),
    "text as overrides": ({"overrides": "seed=1"}, r"overrides='seed=1': give a list"),
    "number in overrides": ({"overrides": [1]}, "overrides: 1 is no text such as"),
    "shape": ({"model": Net(in_channels=2), "data": _pair()}, r"cannot take \(1, 8, 8\) images"),
    "classes": ({"model": Net(num_classes=2), "data": _pair()}, r"logits \(2, 3\), but gives \(2, 2\)"),
    "range": ({"data": (torch.randn(9, 8, 8), torch.arange(9))}, "must lie in 0…1, not yet normalised"),
    "labels": ({"data": (_pair()[0], torch.zeros(3))}, r"labels of shape \[3\] for 90 images"),
    "float labels": ({"data": (_pair()[0], torch.zeros(90))}, "labels must be classes 0, 1, …"),
    "dim": ({"data": (torch.zeros(9), torch.arange(9))}, r"images of shape \[9\]; must be \(N, C, H, W"),
    "few": ({"data": (_pair()[0][:3], _pair()[1][:3])}, "3 images are too few to hold some out"),
    "no data": ({"data": 3.5}, "data: float is no data; give a name such as 'mnist', a pair"),
    "names": ({"data": _pair(), "classes": ["a"]}, "classes: 1 names, but the labels reach 2"),
    "test beside a name": ({"data": "digits", "test": _pair()}, "test and classes go with images given"),
    "model twice": ({"model": "tiny", "overrides": ["model=lenet5"]}, "model is given twice"),
    "part of an object": ({"model": Net, "overrides": {"model.wide": 3}}, "model.wide: the network is given"),
    "ranks": ({"model": Net, "data": _pair(), "accelerator": "ddp_cpu"}, "accelerator.devices: several dev"),
    "no folder": ({"resume": "nowhere"}, "run=nowhere: holds no run"),
    "config_dir": ({"config_dir": "nowhere"}, "--config-dir=nowhere: there is no such folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_message_and_writes_nothing(name: str, tmp_path: Path) -> None:
    settings, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        cnnexp.fit(**{"progress": False, **settings})
    assert not list(tmp_path.rglob("config.yaml"))


def test_overrides_are_written_as_hydra_reads_them() -> None:
    written = overrides_of({"a": "it's", "b": True, "c": {"d": [1, 2.5]}, "e": "", "f": "null"})
    assert written == [r"a='it\'s'", "b=true", "c={d:[1,2.5]}", "e=''", "f='null'"]
    from_numpy = {"g": np.float64(0.5), "h": np.int64(3), "i": np.bool_(True), "j": Path("x/y")}
    assert overrides_of(from_numpy) == ["g=0.5", "h=3", "i=true", "j=x/y"]


def test_the_log_is_as_it_was_afterwards(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ours = logging.getLogger(), logging.getLogger("cnnexp")
    # without what a command of another test has left in this process
    others = [each for each in root.handlers if type(each) is not logging.StreamHandler]
    monkeypatch.setattr(root, "handlers", others)
    before = list(root.handlers), ours.level
    run = cnnexp.fit(Net, _pair(), epochs=1, **{**QUIET, "progress": True})
    assert (list(root.handlers), ours.level) == before
    assert "run folder" in capsys.readouterr().out
    assert "run folder" in (run.folder / "train.log").read_text()


def test_an_interrupt_leaves_a_run_to_resume() -> None:
    class Stopping(Net):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Stopping.calls += self.training
            if Stopping.calls == 8:
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt, match=r"resume='outputs/train/stopping/.*'\) goes on"):
        cnnexp.fit(Stopping, _pair(), epochs=3, batch_size=20, **QUIET)
    run = cnnexp.fit(Stopping, _pair(), resume="latest", progress=False)
    assert run.result["epochs"] == 3
