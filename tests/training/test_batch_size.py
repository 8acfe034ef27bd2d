"""``data.batch_size=auto``: the largest batch that fits, written down before the run and kept by it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cnnexp import train
from cnnexp.config import Composer, ConfigError, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.hydra_settings import for_all
from cnnexp.runs import RunFolder, config_hash
from cnnexp.training import batch_size
from cnnexp.training.batch_size import by_measuring, largest_that_fits, settle_batch_size
from cnnexp.tuning import memory

SMALL = (
    *("data=digits", "data.train_size=640", "data.val_size=10", "model=tanh_cnn", "logger=csv"),
    *("backward=native", "accelerator=cpu", "diagnostics=off", "trainer.max_epochs=1"),
    *("data.batch_size=auto", "name=auto"),
)
MB = 1 << 20


def _config(*settings: str) -> dict[str, Any]:
    return plain_config(Composer("train").compose([*for_all(), *SMALL, *settings]))


def _allocating(mb: int) -> Callable[[int], object]:
    """A step that takes ``mb`` MiB an image, and gives them back."""

    def step(images: int) -> object:
        taken = [torch.ones(images * mb * MB // 4)]
        return taken[0].sum()

    return step


@pytest.mark.parametrize(("fitting", "found"), [(0, 0), (1, 1), (100, 64), (5000, 512)])
def test_the_largest_power_of_two_that_fits(fitting: int, found: int) -> None:
    asked: list[int] = []

    def fits(images: int) -> bool:
        asked.append(images)
        return images <= fitting

    assert largest_that_fits(fits, most=512) == found
    assert max(asked) <= 512
    assert sum(images > fitting for images in asked) <= 1  # memory runs out once


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured on Linux")
def test_memory_decides_where_there_is_little() -> None:
    step = _allocating(4)
    fit = by_measuring(step, 1024, "the limit", free=400 * MB)  # half of it for images of 4 MiB
    assert fit.images == 32
    assert "0.419 GB free, of which at most half is taken" in fit.why
    assert "the limit" not in fit.why
    mb = float(fit.why.split(" MB each")[0])
    assert mb == pytest.approx(4 * MB / 1e6, rel=0.25)


def test_a_limit_decides_where_there_is_much_and_is_said() -> None:
    fit = by_measuring(_allocating(1), 256, "the limit on a cpu", free=10**12)
    assert fit.images == 256
    assert fit.why.startswith("the limit on a cpu; ")
    unknown = by_measuring(_allocating(1), 100, "the limit", free=None)
    assert (unknown.images, "is not known" in unknown.why) == (64, True)


@pytest.mark.parametrize(
    ("most", "images", "said"),
    [(1024, 64, "tried, the next does not fit 90% of 0.001 GB"), (32, 32, "the limit on a cuda")],
)
def test_on_a_gpu_batches_are_tried_until_memory_is_out(
    most: int, images: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an account of 10,000 bytes an image in place of a GPU's, since there is none here."""
    tried, emptied = [0], []

    def step(size: int) -> None:
        tried.append(size)
        if size > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")

    whole = SimpleNamespace(total_memory=10**6)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: whole)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 10_000 * tried[-1])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    fit = batch_size._by_trying(step, most, "the limit on a cuda", torch.device("cuda"))
    assert (fit.images, fit.why) == (images, said)
    assert max(tried) <= 128
    assert emptied


def test_where_not_one_image_fits_one_is_taken() -> None:
    assert by_measuring(_allocating(4), 1024, "the limit", free=MB).images == 1


def test_the_memory_that_is_free_is_the_least_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 80 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    assert memory.free_bytes() == 80 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.free_bytes() == 80 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.free_bytes() == 4000
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "nowhere")
    (tmp_path / "memory.max").unlink()
    assert memory.free_bytes() is None


@pytest.mark.parametrize("optimizer", ["adam", "sam", "lbfgs", "schedule_free", "muon", "gd"])
def test_a_real_training_is_measured(optimizer: str, empty_folder: Path) -> None:
    if optimizer == "schedule_free":
        pytest.importorskip("schedulefree")
    job = build_job(_config(f"optimizer={optimizer}"))
    settled = settle_batch_size(job)
    assert settled.data.batch_size == 64  # a tenth of 640 images
    assert settled.config["data"]["chosen_batch_size"] == 64
    assert not settled.choose_batch_size
    assert settle_batch_size(settled) is settled


def test_the_run_has_it_in_its_config_and_keeps_it(
    empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own_logging: None,
) -> None:
    def typed(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cnnexp.train", *arguments])
        with pytest.raises(SystemExit) as stop:
            train.main()
        assert isinstance(stop.value.code, int)
        return stop.value.code

    assert typed(*SMALL) == 0
    said = capsys.readouterr()
    assert (
        "data.batch_size auto: 64 images (a tenth of 640 training images; " in said.out + said.err
    )
    (place,) = Path("outputs/train/auto").iterdir()
    folder = RunFolder(place)
    data = yaml.safe_load(folder.config.read_text())["data"]
    assert (data["batch_size"], data["chosen_batch_size"]) == ("auto", 64)
    result = folder.read_result()
    assert result["steps"] == 10
    assert result["config_hash"] == config_hash(_config())  # the job is the same on every machine
    # what fits by then changes no run
    monkeypatch.setattr(batch_size, "MOST_ELSEWHERE", 16)
    assert typed("run=latest", "trainer.max_epochs=2") == 0
    assert folder.read_result()["steps"] == 20
    assert typed("--config-dir", str(place), "--config-name", "config", "name=again") == 0
    (again,) = Path("outputs/train/again").iterdir()
    assert RunFolder(again).read_result()["steps"] == 20
    assert typed("run=latest", "data.chosen_batch_size=32", "trainer.max_epochs=3") == 2
    assert "data.chosen_batch_size was 64 and cannot become 32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.batch_size=autoo"], "data.batch_size=autoo: must be a whole number, or auto"),
        (["data.batch_size=0"], "data.batch_size=0: must be at least 1"),
        (["data.batch_size=2.5"], "data.batch_size=2.5"),
        (
            ["data.batch_size=8", "+data.chosen_batch_size=8"],
            "data.chosen_batch_size goes with data.batch_size=auto, not 8",
        ),
        (["+data.chosen_batch_size=0"], "data.chosen_batch_size=0: must be at least 1"),
        (["accelerator=ddp_cpu", "accelerator.devices=2"], "data.batch_size=auto: is measured by"),
        (["privacy=dp_sgd"], "data.batch_size=auto: ε follows from the batch size"),
        (["+trainer.auto_scale_batch_size=true"], "data.batch_size=auto takes the largest that"),
        (["+trainer.auto_lr_find=true"], "python -m cnnexp.lr_find suggests one"),
        (
            ["+callbacks.x._target_=lightning.pytorch.callbacks.BatchSizeFinder"],
            "BatchSizeFinder would change the batch size behind config.yaml's back; data.batch_size=auto",
        ),
        (
            ["+callbacks.x._target_=lightning.pytorch.callbacks.LearningRateFinder"],
            "LearningRateFinder would change the learning rate behind config.yaml's back; python -m",
        ),
        (
            ["+callbacks.x._target_=lightning.pytorch.tuner.Tuner"],
            "Tuner finds learning rates and batch sizes outside of a run; use python -m cnnexp.lr_find",
        ),
    ],
)
def test_what_cannot_be(settings: list[str], said: str, empty_folder: Path) -> None:
    if "privacy=dp_sgd" in settings:
        pytest.importorskip("dp_accounting")
    with pytest.raises(ConfigError) as error:
        build_job(_config(*settings)).callbacks()
    assert said in str(error.value)


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_labels_and_numbers_are_measured(kind: str, empty_folder: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (80, 3))
    labels = rows if kind == "labels" else rows.astype(np.float32)
    np.savez("mine.npz", images=np.zeros((80, 28, 28), np.uint8), labels=labels)
    loss = "binary_cross_entropy" if kind == "labels" else "mse"
    monitor = "val/acc" if kind == "labels" else "val/mae"
    given = [f"loss={loss}", f"checkpoint.monitor={monitor}", "data=arrays", "data.file=mine.npz"]
    settings = [each for each in SMALL if not each.startswith(("data=", "data.train_size"))]
    config = plain_config(Composer("train").compose([*for_all(), *settings, *given]))
    assert settle_batch_size(build_job(config)).data.batch_size >= 1
