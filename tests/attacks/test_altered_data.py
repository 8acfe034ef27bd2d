"""Canaries and shadows: which images a training of an attack sees, all others being the run's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cnnexp.attacks import canaries, shadows
from cnnexp.attacks.altered import Joined, RunSplit, altered_config, join, split_as_the_run
from cnnexp.attacks.canaries import Canaries
from cnnexp.attacks.shadows import Shadow, design, pool_of
from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.data import ImageDataModule, Samples, load_digits, load_image_folder, load_synthetic

SPLIT = RunSplit(val_size=30, train_size=0.8, classes=["2", "0", "1"], split_seed=5)
ARGUMENTS: dict[str, Any] = {"size": 200, "image_size": 6, "num_classes": 4}


def _run() -> ImageDataModule:
    return split_as_the_run(load_synthetic, ARGUMENTS, SPLIT)


def _as_rows(samples: Samples) -> list[tuple[int, ...]]:
    images, labels = samples.batch(torch.arange(len(samples)))
    pairs = zip(images.flatten(1).tolist(), labels.tolist(), strict=True)
    return [(*row, label) for row, label in pairs]


def test_canaries_are_in_or_out_as_their_coins_say() -> None:
    run, asked = _run(), Canaries(60, "label", 7)
    drawn = canaries.draw(run.train, 3, asked)
    assert 15 < drawn.included.sum() < 45
    images = canaries.load(load_synthetic, SPLIT, asked, **ARGUMENTS)
    assert len(images.train) == len(run.train) - int((~drawn.included).sum())
    rows, own, wrong = _as_rows(images.train), _as_rows(run.train), _as_rows(drawn.samples)
    assert [row in rows for row in wrong] == drawn.included.tolist()
    pixels = {row[:-1]: row for row in own}
    for row in wrong:
        assert pixels[row[:-1]][-1] != row[-1]
        assert pixels[row[:-1]] not in rows  # never with its true label
    assert all(own[place] in rows for place in drawn.others)


def test_patterns_are_beside_the_images_of_the_run() -> None:
    run, asked = _run(), Canaries(80, "pattern", 7)
    drawn = canaries.draw(run.train, 3, asked)
    pixels, labels = drawn.samples.batch(torch.arange(80))
    assert pixels.unique().tolist() == [0, 255]
    assert labels.unique().tolist() == [0, 1, 2]
    images = canaries.load(load_synthetic, SPLIT, asked, **ARGUMENTS)
    rows = _as_rows(images.train)
    assert rows[: len(run.train)] == _as_rows(run.train)
    assert rows[len(run.train) :] == [
        row
        for row, included in zip(_as_rows(drawn.samples), drawn.included, strict=True)
        if included
    ]
    with pytest.raises(ValueError, match="canary=bird: must be one of pattern, label"):
        canaries.draw(run.train, 3, Canaries(80, "bird", 7))


def test_validation_and_statistics_stay_those_of_the_run() -> None:
    run = _run()
    images = canaries.load(load_synthetic, SPLIT, Canaries(20, "label", 0), **ARGUMENTS)
    assert images.checksum != run.images.checksum
    assert (images.mean, images.std, images.classes) == (
        run.images.mean,
        run.images.std,
        run.images.classes,
    )
    module = ImageDataModule(lambda: images, val_size=0, split_seed=5)
    assert torch.equal(module.val.labels, run.val.labels)
    every = torch.arange(len(run.val))
    assert torch.equal(module.val.batch(every)[0], run.val.batch(every)[0])
    assert torch.equal(module.train.labels, images.train.labels)
    assert ImageDataModule(lambda: images, val_size=10).val is module.images.val
    fewer = images.keep_classes(["0", "2"])
    assert fewer.val is not None
    assert len(fewer.val) == int((run.val.labels != 2).sum())


def test_another_seed_is_another_set() -> None:
    found = {
        canaries.load(load_synthetic, SPLIT, Canaries(20, "pattern", seed), **ARGUMENTS).checksum
        for seed in (0, 0, 1)
    }
    assert len(found) == 2
    with pytest.raises(ValueError, match="canaries=500: must be at least 2 and at most the"):
        canaries.load(load_synthetic, SPLIT, Canaries(500, "label", 0), **ARGUMENTS)


def test_a_shadow_has_its_half_of_the_pool_and_all_else() -> None:
    run = _run()
    pool = pool_of(run, seed=3)
    count = len(run.images.test)
    assert len(pool.members) == len(pool.others) == count
    inside = design(2 * count, 4, seed=3)
    for number in range(4):
        shadow = shadows.load(load_synthetic, SPLIT, Shadow(number, 4, 3), **ARGUMENTS)
        rows = _as_rows(shadow.train)
        assert len(rows) == len(run.train) - count + int(inside[number].sum())
        parts = ((run.train, pool.members), (run.images.test, pool.others))
        scored = [row for part, places in parts for row in _as_rows(part.select(places))]
        assert [row in rows for row in scored] == inside[number].tolist()


def test_samples_of_two_places_are_one(tmp_path: Path) -> None:
    for name, grey in (("a", 10), ("b", 20), ("c", 30), ("d", 40)):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("L", (4, 4), grey + number).save(tmp_path / name / f"{number}.png")
    on_disk = load_image_folder(tmp_path, image_size=4, channels=1)
    joined = join(on_disk.train, on_disk.test)
    assert isinstance(joined, Joined)
    assert (len(joined), joined.shape) == (20, (1, 4, 4))
    pixels, labels = joined.batch(torch.tensor([19, 0, 16]))
    assert labels.tolist() == [3, 0, 0]
    assert (pixels[:, 0, 0, 0] // 10 - 1).tolist() == labels.tolist()
    chosen = joined.select(torch.tensor([19, 0])).select(torch.tensor([1]), torch.tensor([7]))
    again, wrong = chosen.batch(torch.tensor([0]))
    assert torch.equal(again[0], pixels[1])
    assert wrong.tolist() == chosen.labels.tolist() == [7]


def test_the_config_says_what_was_done(tmp_path: Path) -> None:
    register_resolvers()
    given = ["data=mnist", f"data.root={tmp_path}", "data.train_size=0.5", "accelerator=cpu"]
    config = plain_config(Composer("train").compose(given))
    more = {"canaries": {"count": 10, "kind": "label", "seed": 1}}
    changed = altered_config(config, canaries.TARGET, more)
    assert changed["data"] == {
        "_target_": "cnnexp.attacks.canaries.load",
        "loader": "cnnexp.data.load_mnist_or_digits",
        "root": str(tmp_path),
        "download": True,
        "fallback": "digits",
        "run_split": {"val_size": 5000, "train_size": 0.5, "classes": None, "split_seed": 0},
        **more,
        "batch_size": 128,
        "eval_batch_size": 500,
        "val_size": 0,
        "folds": None,
        "fold": None,
        "train_size": None,
        "classes": None,
        "split_seed": 0,
        "num_workers": 0,
    }
    assert {**changed, "data": None, "test": True} == {**config, "data": None}
    build_job(changed)
    with pytest.raises(ConfigError, match="is itself the training of an attack"):
        altered_config(changed, canaries.TARGET, more)


@pytest.mark.parametrize("name", ["os.system", "cnnexp.runs.files.write_text"])
def test_a_config_may_not_name_any_function_as_loader(name: str) -> None:
    register_resolvers()
    config = plain_config(Composer("train").compose(["data=digits", "accelerator=cpu"]))
    changed = altered_config(
        config, canaries.TARGET, {"canaries": {"count": 10, "kind": "label", "seed": 1}}
    )
    changed["data"] = {**changed["data"], "loader": name}
    with pytest.raises(ConfigError, match=f"data.loader._target_={name} is not allowed"):
        build_job(changed)


def test_a_stand_in_is_split_in_its_proportion() -> None:
    instead = replace(load_synthetic(**ARGUMENTS), stands_in_for=2000)
    split = RunSplit(300, None, None, 0)
    run = split_as_the_run(lambda: instead, {}, split)
    assert (len(run.train), len(run.val)) == (170, 30)
    images = canaries.load(lambda: instead, split, Canaries(2, "label", 0))
    module = ImageDataModule(lambda: images, val_size=0)
    assert (len(module.val), images.stands_in_for) == (30, 0)


def test_a_fold_is_split_as_the_run_did(empty_folder: Path) -> None:
    given = ["data=digits", "data.folds=5", "data.fold=3"]
    config = plain_config(Composer("train").compose(given))
    changed = altered_config(config, canaries.TARGET, {})["data"]
    assert (changed["val_size"], changed["folds"], changed["fold"]) == (0, None, None)
    own = split_as_the_run(load_digits, {}, RunSplit(**changed["run_split"]))
    expected = ImageDataModule(load_digits, val_size=None, folds=5, fold=3)
    assert torch.equal(own.val.labels, expected.val.labels)
    assert len(own.train) == len(expected.train)
