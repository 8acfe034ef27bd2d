"""The network of a run by its name, in a program."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from cnnexp.config import ConfigError
from cnnexp.inference import load_run, load_trained
from cnnexp.nn import layer_algorithms
from cnnexp.runs import RunFolder


def test_a_folder_gives_its_network(digits_run: RunFolder) -> None:
    loaded, wanted = load_run(digits_run.path), load_trained(digits_run)
    images = torch.rand(3, *loaded.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.classifier(images), wanted.classifier(images))
    assert loaded.dataset == "digits"
    assert loaded.checkpoint == "best.ckpt"
    assert load_run(str(digits_run.path), checkpoint="last").checkpoint == "last.ckpt"


def test_the_layers_compute_as_they_are_told(digits_run: RunFolder) -> None:
    found = layer_algorithms(load_run(digits_run.path, backward="im2col").classifier.network)
    assert "im2col" in set(found.values())


def test_the_newest_run_is_loaded_and_the_job_of_a_sweep(
    digits_run: RunFolder, empty_folder: Path
) -> None:
    shutil.copytree(digits_run.path, "outputs/train/net/now")
    assert load_run().folder.path == Path("outputs/train/net/now")
    shutil.move("outputs", "elsewhere")
    assert load_run(output_dir="elsewhere").folder.path == Path("elsewhere/train/net/now")
    with pytest.raises(ConfigError, match="which=3: chooses among the jobs of a sweep"):
        load_run("elsewhere/train/net/now", which=3)


def test_what_is_no_run_is_refused(empty_folder: Path) -> None:
    with pytest.raises(ConfigError, match="run=latest: there is no run in outputs"):
        load_run()
    with pytest.raises(ConfigError, match="run=nothing: holds no run"):
        load_run("nothing")


def test_classes_outside_the_list_need_leave(digits_run: RunFolder, empty_folder: Path) -> None:
    shutil.copytree(digits_run.path, "run")
    config = Path("run/config.yaml")
    text = config.read_text(encoding="utf-8")
    assert "_target_: cnnexp.models.SeedCNN" in text
    config.write_text(
        text.replace("_target_: cnnexp.models.SeedCNN", "_target_: mylab.Net"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="mylab"):
        load_run("run")
    with pytest.raises(ConfigError, match="mylab"):  # allowed, but nowhere to be found
        load_run("run", allow_targets=["mylab."])
