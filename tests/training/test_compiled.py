"""Passes by torch.compile: chosen where faster, watched steps as written, refused where it cannot be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnexp.data import ImageDataModule, load_digits
from cnnexp.runs import config_hash
from cnnexp.training import Classifier, TrainingJob, read_checkpoint, run_training
from cnnexp.training.classifier import _training_logits
from cnnexp.training.compiled import CompileError
from cnnexp.tuning import CompileChoice, NotCompiledError, choose_compiled, try_compiled
from cnnexp.tuning import compiled as by_torch
from tests.training.resumable import new_folder, same


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(784, 8), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.hidden(images.flatten(1)).relu())


def _job(**changes: Any) -> TrainingJob:
    settings: dict[str, Any] = {
        "data": ImageDataModule(load_digits, batch_size=32, val_size=32, train_size=64),
        "network": lambda images: Small(),
        "optimizer": lambda network: torch.optim.SGD(network.parameters(), lr=0.1),
        "backward": "native",
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "config": {"seed": 0, "compile": {"name": changes.get("compile", "off"), "chosen": None}},
    }
    return TrainingJob(**settings | changes)


def _run(network: nn.Module, images: Tensor) -> Tensor:
    return network(images)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_auto_keeps_the_network_as_it_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, plain = new_folder(tmp_path / "run"), new_folder(tmp_path / "plain")
    with caplog.at_level(logging.INFO, "cnnexp"):
        result = run_training(_job(compile="auto"), folder)
    said = "compile auto: off, since the network cannot be compiled: this machine has none of "
    assert said in caplog.text
    assert "compiled" not in result
    assert folder.read_config()["compile"] == {"name": "auto", "chosen": False}
    run_training(_job(), plain)
    one, other = (read_checkpoint(f.last_checkpoint)["state_dict"] for f in (folder, plain))
    assert same(one, other)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_on_is_refused_with_one_message(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(CompileError, match=r"compile=on: .* use compile=off, or compile=auto"):
        run_training(_job(compile="on"), folder)
    assert folder.read_status()["state"] == "failed"
    with pytest.raises(NotCompiledError, match="this machine has none of"):
        try_compiled(Small(), torch.zeros(2, 784), _run)


@pytest.mark.usefixtures("no_compiler")
def test_what_was_chosen_is_taken_again_without_measuring(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "cnnexp"):
        run_training(_job(compile="auto", compile_chosen=False), new_folder(tmp_path / "run"))
    assert "compile auto: off, as was chosen" in caplog.text


def _classifier() -> Classifier:
    return Classifier(
        Small(),
        num_classes=10,
        mean=(0.5,),
        std=(0.5,),
        optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=0.1),
    )


def test_a_watched_step_is_computed_as_written_and_its_hooks_are_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    def compile_quickly(network: nn.Module, **options: Any) -> Any:
        assert options == {"dynamic": False}

        def call(images: Tensor) -> Tensor:
            calls.append("compiled")
            return network(images)

        return call

    monkeypatch.setattr(torch, "compile", compile_quickly)
    classifier, images = _classifier(), torch.rand(2, 1, 28, 28)
    names = list(classifier.state_dict())
    classifier.network.register_forward_pre_hook(lambda *_: None)  # the network's own stays
    classifier.compile_network()
    assert list(classifier.state_dict()) == names
    assert classifier.compile_facts == {"compiled": True}
    logits = _training_logits(classifier, classifier._compiled, images)
    assert calls == ["compiled"]
    network: Any = classifier.network
    handle = network.hidden.register_forward_hook(lambda *_: calls.append("hook"))
    assert torch.equal(_training_logits(classifier, classifier._compiled, images), logits)
    assert calls == ["compiled", "hook"]
    handle.remove()
    _training_logits(classifier, classifier._compiled, images)
    classifier(images)  # as a validation does
    assert calls == ["compiled", "hook", "compiled"]


def test_compile_is_part_of_the_identity_and_the_choice_is_not() -> None:
    config = {"seed": 0, "model": {"_target_": "x"}}
    off = {**config, "compile": {"name": "off", "chosen": None}}
    auto = [{**config, "compile": {"name": "auto", "chosen": c}} for c in (None, True, False)]
    assert config_hash(off) == config_hash(config)
    assert len({config_hash(each) for each in auto}) == 1
    assert config_hash(auto[0]) != config_hash(off)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch's compiler's own
def test_torch_compiles_trains_and_leaves_plain_checkpoints(tmp_path: Path) -> None:
    plain, folder = new_folder(tmp_path / "plain"), new_folder(tmp_path / "run")
    run_training(_job(), plain)
    result = run_training(_job(compile="on"), folder)
    assert result["compiled"] is True
    assert folder.read_provenance()["compiled"] is True
    one, other = (read_checkpoint(f.last_checkpoint)["state_dict"] for f in (folder, plain))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch's compiler's own
def test_auto_measures_once_and_leaves_the_network_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    network, images = Small(), torch.rand(8, 784)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    choice = choose_compiled(network, images, _run)
    assert isinstance(choice, CompileChoice)
    assert not choice.reason
    assert choice.compiled == (choice.ratio < 1.0)
    assert same(dict(network.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(by_torch(network)(images), network(images))
