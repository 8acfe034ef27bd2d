"""``loss=``: each loss trains, on the targets that it is of, and everything else is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job, check_job
from cnnexp.inference import load_trained
from cnnexp.notebook.run import Run
from cnnexp.runs import RunFolder, config_hash
from cnnexp.training import read_checkpoint
from tests.config.tiny_runs import checked, tiny_job, tiny_run

ARRAYS = (
    *(
        "data=arrays",
        "data.file=mine.npz",
        "data.val_size=40",
        "data.batch_size=20",
        "optimizer.lr=0.02",
    ),
)


def _write(kind: str) -> tuple[str, ...]:
    """The settings for 200 images with a bright spot each; its row and column are what is looked for."""
    random = np.random.default_rng(0)
    images = random.integers(0, 60, (200, 8, 12), dtype=np.uint8)
    rows, columns = random.integers(1, 7, 200), random.integers(1, 11, 200)
    for image, row, column in zip(images, rows, columns, strict=True):
        image[row - 1 : row + 2, column - 1 : column + 2] = 250
    labels = {
        "labels": np.stack([rows > 3, columns > 5, rows > 4], 1),
        "numbers": np.stack([rows / 8, columns / 12], 1),
        "classes": (rows > 5).astype(int),
    }[kind]
    np.savez(f"{kind}.npz", images=images, labels=labels)
    return (*ARRAYS, f"data.file={kind}.npz")


def _predicted(folder: RunFolder, kind: str) -> torch.Tensor:
    """What the run in ``folder`` says of the images that :func:`_write` made."""
    images = torch.as_tensor(np.load(f"{kind}.npz")["images"]).unsqueeze(1)
    return Run(folder, lambda: load_trained(folder)).predict(images)


MODEL = ("model=tiny", "model.channels=[8,8]", "trainer.max_epochs=6", "scheduler=none")


def test_several_labels_an_image(empty_folder: Path) -> None:
    run = tiny_run(
        empty_folder, *_write("labels"), *MODEL, "loss=binary_cross_entropy", "diagnostics=basic"
    )
    assert run.result["val/loss"] < math.log(2)  # a guess
    assert 0.6 < run.result["test/acc"] <= 1
    assert {"train/acc", "val/acc", "test/acc"} <= run.names()
    assert run.folder.read_provenance()["dataset"]["targets"] == "labels"
    found = _predicted(run.folder, "labels")
    assert bool(((found > 0) & (found < 1)).all())
    right = (found > 0.5) == torch.as_tensor(np.load("labels.npz")["labels"])
    assert right.float().mean() > 0.6


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_numbers_for_an_image(loss: str, empty_folder: Path) -> None:
    arrays = _write("numbers")
    chosen = (f"loss={loss}", "checkpoint.monitor=val/mae", "data.names=[row,column]")
    run = tiny_run(empty_folder, *arrays, *MODEL, *chosen, "metrics=[rmse,r2]")
    assert run.result["test/mae"] < 0.25  # what guessing the mean has is about as much
    assert run.result["val/mae"] == pytest.approx(min(run.values("val/mae")), abs=1e-6)
    assert "test/acc" not in run.result
    assert run.result["test/rmse"] >= run.result["test/mae"]
    assert {"train/mae", "val/rmse", "test/r2"} <= run.names()
    found = _predicted(run.folder, "numbers")
    assert (found - torch.as_tensor(np.load("numbers.npz")["labels"])).abs().mean() < 0.25


def test_the_classes_are_weighted_by_how_rare_they_are(empty_folder: Path) -> None:
    arrays = _write("classes")
    job = tiny_job(*arrays, "loss.class_weights=balanced")
    assert job.loss is not None
    loss = job.loss(job.data)
    counts = torch.bincount(job.data.train.labels)
    expected = counts.sum() / (2 * counts)
    assert torch.allclose(torch.as_tensor(loss.weight), expected)
    given = tiny_job(*arrays, "loss=focal", "loss.gamma=1", "loss.class_weights=[1,3]")
    assert given.loss is not None
    focal = given.loss(given.data)
    assert torch.as_tensor(focal.weight).tolist() == [1.0, 3.0]
    run = tiny_run(empty_folder, *arrays, "loss=focal", "loss.class_weights=balanced")
    state = read_checkpoint(run.folder.last_checkpoint)["state_dict"]
    assert not [name for name in state if "loss" in name]  # a run's affair, not its network's


@pytest.mark.parametrize(
    "loss", ["cnnexp.nn.CrossEntropyLoss", "cnnexp.nn.FocalLoss", "torch.nn.MultiMarginLoss"]
)
@pytest.mark.parametrize("weights", ["balanced", "[0.01,1]"])
def test_with_weights_no_result_depends_on_how_images_are_put_together(
    weights: str, loss: str, empty_folder: Path
) -> None:
    """Also of a loss that is divided by the number of images, whatever these weigh."""
    arrays, found = _write("classes"), []
    for number, size in enumerate((1, 7, 500)):
        own = f"loss={{_target_:{loss},class_weights:{weights}}}"
        given = ("~loss", f"+{own}", f"data.eval_batch_size={size}")
        folder = empty_folder / str(number)
        folder.mkdir()
        result = tiny_run(folder, *arrays, *MODEL, *given).result
        found.append([result["val/loss"], result["test/loss"]])
    assert all(map(math.isfinite, found[0]))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def test_the_plain_cross_entropy_is_the_job_that_it_was() -> None:
    config = plain_config(Composer("train").compose(["data=digits"]))
    before = {key: value for key, value in config.items() if key not in ("loss", "metrics")}
    assert config_hash(config) == config_hash(before)
    assert build_job(config).loss is None
    focal = plain_config(Composer("train").compose(["data=digits", "loss=focal"]))
    assert config_hash(focal) != config_hash(config)


def test_label_smoothing_stays_with_the_cross_entropy() -> None:
    checked("loss.class_weights=balanced", "regularization=label_smoothing")
    for loss in ("focal",):
        with pytest.raises(ConfigError, match="label_smoothing: smooths the targets of"):
            checked(f"loss={loss}", "regularization=label_smoothing")


MINE = '''
import torch
from torch import nn

class Hinge(nn.Module):
    """The multi-class hinge loss."""

    def __init__(self, margin: float = 1.0, shape: str = "") -> None:
        super().__init__()
        self.margin, self.shape = margin, shape

    def forward(self, logits, labels):
        losses = nn.functional.multi_margin_loss(logits, labels, margin=self.margin, reduction="none")
        return losses if self.shape else losses.mean()
'''


@pytest.fixture
def mine(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_folder / "myhinge.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(empty_folder))
    monkeypatch.setenv("CNNEXP_ALLOW_TARGETS", "myhinge.")


OWN = "loss._target_=myhinge.Hinge"


def _check(*overrides: str) -> None:
    composed = Composer("train").compose(
        ["data=synthetic", "data.size=80", "data.val_size=16", *overrides]
    )
    check_job(build_job(plain_config(composed), ("myhinge.",)), ("myhinge.",))


@pytest.mark.usefixtures("mine")
def test_a_loss_of_ones_own() -> None:
    _check(OWN, "+loss.margin=0.5")
    with pytest.raises(ConfigError, match=r"takes no argument 'magin'. Did you mean 'margin'"):
        _check(OWN, "+loss.magin=0.5")
    with pytest.raises(
        ConfigError, match=r"must give one number for a batch, its mean, but gives \[2\]"
    ):
        _check(OWN, "+loss.shape=each")
    with pytest.raises(ConfigError, match=r"loss.class_weights: myhinge.Hinge takes none"):
        _check(OWN, "loss.class_weights=balanced")
    with pytest.raises(ConfigError, match=r"loss._target_=myhinge.Hinge is not allowed"):
        build_job(plain_config(Composer("train").compose(["data=synthetic", OWN])))


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("labels", (), r"is of one class an image, but labels has several labels an image; "
         r"set loss=binary_cross_entropy"),
        ("numbers", ("loss=binary_cross_entropy",), r"is of several labels an image, but numbers has "
         r"numbers; set loss=mse or huber"),
        ("classes", ("loss=mse",), r"set loss=cross_entropy or focal"),
        ("numbers", ("loss=mse",), r"checkpoint.monitor=val/acc: must be one of val/mae, val/loss, numbers "
         r"have no accuracy"),
        ("classes", ("loss=focl",), r"loss=focl: unknown choice; known: .*Did you mean 'focal'"),
        ("classes", ("loss=focal", "loss.gama=1"), r"no key 'loss.gama' in the config.*'loss.gamma'"),
        ("classes", ("loss=focal", "loss.gamma=-1"), r"loss: .*FocalLoss refuses .*gamma must be at least 0"),
        ("classes", ("loss.class_weights=[1]",), r"class_weights=\[1\]: must be balanced, or a number for "
         r"each of 2: 0, 1"),
        ("classes", ("loss.class_weights=[1,-1]",), r"must be at least 0 and finite"),
        ("classes", ("loss.class_weights=balanced", "accelerator=ddp_cpu", "accelerator.num_nodes=2",
         "accelerator.devices=1"), r"the weighted mean of a batch is not that of its slices"),
        ("classes", ("loss=focal", "regularization=mixup"), r"regularization.mixup: blends labels"),
        ("classes", ("+loss.label_smoothing=0.1",), r"is regularization=label_smoothing"),
        ("labels", ("loss=binary_cross_entropy", 'data.classes=["0","1"]'), r"has labels, not one class"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    kind: str, overrides: tuple[str, ...], message: str
) -> None:
    arrays = _write(kind)
    with pytest.raises(ConfigError, match=message):
        checked(*arrays, *overrides)
