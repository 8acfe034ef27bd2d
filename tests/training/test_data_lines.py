"""Classes of very different size are said at the start, in one line."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.training.data_lines import imbalance, say_of_images
from cnnexp.training.training_job import TrainingJob


def _job(folder: Path, counts: list[int], *overrides: str) -> TrainingJob:
    register_resolvers()
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 8, 8), dtype=np.uint8)
    test = {"test_images": images[:2], "test_labels": labels[:2]}
    file = folder / f"{'-'.join(map(str, counts))}.npz"
    np.savez(file, images=images, labels=labels, **test)
    given = [
        "data=arrays",
        f"data.file={file}",
        "data.names=[a,b,c]",
        "data.val_size=0",
        *overrides,
    ]
    return build_job(plain_config(Composer("train").compose(given)))


def test_one_line_where_a_class_is_rare(
    empty_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = _job(empty_folder, [40, 9, 12])
    with caplog.at_level(logging.INFO):
        say_of_images(job)
    (said,) = caplog.messages
    assert said == (
        "classes of very different size: a has 40 training images, 4.4 times as many, b has 9; "
        "metrics=balanced_accuracy counts the classes alike, loss.class_weights=balanced trains so"
    )
    weighted = imbalance(_job(empty_folder, [40, 9, 12], "loss.class_weights=[1,2,2]"))
    assert weighted.endswith("b has 9; weighted by loss.class_weights")
    assert "c has none" in imbalance(_job(empty_folder, [40, 20]))


def test_one_line_where_the_sets_own_images_validate(
    empty_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.arange(30) % 3
    images = np.zeros((30, 8, 8), dtype=np.uint8)
    own = {"val_images": images[:9], "val_labels": labels[:9]}
    np.savez(empty_folder / "own.npz", images=images, labels=labels, **own)
    said = {}
    for size in ("0.1", "0"):
        caplog.clear()
        given = ["data=arrays", "data.file=own.npz", f"data.val_size={size}"]
        job = build_job(plain_config(Composer("train").compose(given)))
        with caplog.at_level(logging.INFO):
            say_of_images(job)
        assert len(job.data.val) == 9
        said[size] = caplog.messages
    line = "own brings 9 validation images of its own, so that data.val_size=0.1 holds out none"
    assert said == {"0.1": [line], "0": []}


def test_no_line_up_to_three_times_nor_of_private_trainings(empty_folder: Path) -> None:
    assert imbalance(_job(empty_folder, [30, 10, 10])) == ""
    private = ("privacy=dp_sgd", "privacy.epsilon=5", "model=tanh_cnn")
    assert imbalance(_job(empty_folder, [40, 9, 12], *private)) == ""
    assert (
        imbalance(_job(empty_folder, [40, 9, 12], "data.names=null", "data.targets=numbers")) == ""
    )
