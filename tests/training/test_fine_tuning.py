"""An ImageNet-shaped network on somebody's own pictures: what trains, and what stays to the bit."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.models import torchvision_model
from cnnexp.runs import RunFolder, config_hash
from cnnexp.training import read_checkpoint, run_training
from tests.config.tiny_runs import tiny_run

FROZEN = ("conv1", "bn1", "layer1", "layer2")
SHAPES = ("cross", "disc", "stripes")


def draw_pictures(folder: Path, count: int) -> None:
    """``count`` pictures of crosses, discs and stripes, of random colours, sizes and places."""
    random = np.random.default_rng(0)
    for number in range(count):
        shape = SHAPES[number % 3]
        paper, ink = (tuple(map(int, random.integers(low, low + 100, 3))) for low in (0, 150))
        picture = Image.new("RGB", (64, 64), paper)
        draw = ImageDraw.Draw(picture)
        x, y = map(int, random.integers(24, 40, 2))
        r = int(random.integers(12, 20))
        if shape == "disc":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
        elif shape == "cross":
            draw.line((x - r, y, x + r, y), fill=ink, width=6)
            draw.line((x, y - r, x, y + r), fill=ink, width=6)
        else:
            for at in range(int(random.integers(0, 8)), 64, 10):
                draw.line((0, at, 64, at), fill=ink, width=4)
        (folder / shape).mkdir(parents=True, exist_ok=True)
        picture.save(folder / shape / f"{number}.png")


def write_weights(file: Path) -> dict[str, Tensor]:
    """A resnet18 of 1,000 classes whose normalisations have seen images."""
    torch.manual_seed(5)
    network = torchvision_model("resnet18", num_classes=1000).train()
    with torch.no_grad():
        for _ in range(8):
            network(torch.randn(16, 3, 48, 48))
    weights = network.state_dict()
    torch.save(weights, file)
    return weights


@pytest.fixture(scope="module")
def fine_tuned(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[RunFolder, dict[str, Tensor], Any]:
    place = tmp_path_factory.mktemp("fine_tuned")
    draw_pictures(place / "pictures", 200)
    source = write_weights(place / "resnet18.pth")
    overrides = (
        *("experiment=fine_tune", f"data.folder={place / 'pictures'}", "data.image_size=32"),
        *("data.num_workers=0", "data.batch_size=20", "trainer.max_epochs=3", "logger=csv"),
        *("accelerator=cpu", "backward=native", f"init_from={place / 'resnet18.pth'}"),
    )
    config = plain_config(Composer("train").compose(overrides))
    job = build_job(config)
    check_job(job)
    folder = RunFolder(place / "run")
    folder.path.mkdir()
    run_training(job, folder)
    return folder, source, config


def _network(folder: RunFolder) -> dict[str, Tensor]:
    state = read_checkpoint(folder.last_checkpoint)["state_dict"]
    return {n.removeprefix("network."): v for n, v in state.items() if n.startswith("network.")}


def test_it_learns_three_classes_of_200_pictures(fine_tuned: Any) -> None:
    folder, _, _ = fine_tuned
    result = folder.read_result()
    assert result["test/acc"] >= 0.95
    assert result["val/acc"] >= 0.95


def test_what_is_frozen_stays_to_the_bit_and_with_it_its_statistics(fine_tuned: Any) -> None:
    folder, source, _ = fine_tuned
    trained = _network(folder)
    frozen = [name for name in source if name.partition(".")[0] in FROZEN]
    assert any("running_var" in name for name in frozen)
    for name in frozen:
        assert torch.equal(trained[name], source[name]), name
    others = [n for n in source if n not in frozen and not n.startswith("fc.")]
    assert len(others) > 50
    for name in others:
        assert not torch.equal(trained[name], source[name]), name
    assert trained["fc.weight"].shape == (3, 512)


def test_provenance_names_the_weights_and_their_checksum(fine_tuned: Any) -> None:
    folder, _, config = fine_tuned
    about = folder.read_provenance()["init_from"]
    file = Path(about["file"])
    assert about["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert about["name"] == str(file)
    assert (about["tensors"], about["anew"]) == (120, "fc")
    assert config["init_from"]["sha256"] == about["sha256"]
    assert folder.read_config()["init_from"] == config["init_from"]


def test_the_weights_count_by_their_content_not_by_their_place(fine_tuned: Any) -> None:
    _, _, config = fine_tuned
    part = config["init_from"]
    moved = {**config, "init_from": {**part, "weights": "elsewhere.pth"}}
    changed = {**config, "init_from": {**part, "sha256": "0" * 64}}
    fewer = {**config, "init_from": {**part, "layers": ["layer1"]}}
    assert config_hash(moved) == config_hash(config)
    assert len({config_hash(each) for each in (config, changed, fewer)}) == 3


def test_without_weights_a_job_is_what_it_was_before_there_were_any() -> None:
    config = plain_config(Composer("train").compose(["data=digits"]))
    without = {key: value for key, value in config.items() if key != "init_from"}
    assert config_hash(config) == config_hash(without)


def test_a_run_is_resumed_without_the_weights_that_it_began_with(empty_folder: Path) -> None:
    first = tiny_run(empty_folder)
    shutil.copytree(first.folder.path, "source")
    shutil.rmtree(first.folder.path)
    whole = tiny_run(empty_folder, "init_from=source", "trainer.max_epochs=3")
    expected = read_checkpoint(whole.folder.last_checkpoint)["state_dict"]
    shutil.rmtree(whole.folder.path)

    with pytest.raises(RuntimeError, match="as asked for"):
        tiny_run(
            empty_folder, "init_from=source", "trainer.max_epochs=3", spy="+callbacks.spy.fail_at=6"
        )
    shutil.rmtree("source")
    folder = RunFolder(empty_folder / "run")
    job = build_job(folder.read_config(), ("tests.",))
    check_job(job, ("tests.",), resumed=True)
    job.callbacks = tuple  # what made it fail
    result = run_training(job, folder, resume=True)
    assert result["epochs"] == 3
    resumed = read_checkpoint(folder.last_checkpoint)["state_dict"]
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name
    assert "init_from" in folder.read_provenance()


def test_weights_that_have_changed_since_they_were_pinned_are_refused(empty_folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, "w.pth")
    config = plain_config(Composer("train").compose(["data=digits", "init_from=w.pth"]))
    torch.save({"a": torch.ones(1)}, "w.pth")
    with pytest.raises(
        ConfigError, match=r"init_from=w.pth: w.pth: has the SHA-256 .*it has changed"
    ):
        check_job(build_job(config))
