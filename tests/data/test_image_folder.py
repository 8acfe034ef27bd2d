"""Real picture files of several formats, read by the real code."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnexp.data import (
    DataFileError,
    DataUnavailableError,
    ImageDataModule,
    load_image_folder,
)
from cnnexp.data.picture_files import read_picture
from cnnexp.inference import picture_files
from tests.data.picture_files import write_pictures


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """train/ and test/, each with the classes blue and red."""
    write_pictures(tmp_path / "train")
    write_pictures(tmp_path / "test", count=2)
    return tmp_path


def test_pictures_of_any_size_and_format_become_one_shape(parted: Path) -> None:
    (parted / "train" / "notes.txt").write_text("not a picture")
    (parted / "train" / "red" / ".hidden.png").write_text("not a picture")
    (parted / "train" / "red" / "more").mkdir()
    shutil.copy(parted / "train" / "red" / "0.png", parted / "train" / "red" / "more" / "again.PNG")
    made = load_image_folder(parted, image_size=24)
    assert (made.name, made.classes) == (parted.name, ("blue", "red"))
    assert (len(made.train), len(made.test)) == (11, 4)
    assert (made.channels, made.image_size) == (3, (24, 24))
    images, labels = made.train.batch(torch.tensor([0, 10, 5]))
    assert (images.shape, images.dtype) == ((3, 3, 24, 24), torch.uint8)
    assert labels.tolist() == [0, 1, 1]
    blue = images.float().mean((2, 3))[:, 2]
    assert blue[0] > 200 > 40 > blue[1]
    whole = made.train.batch(torch.arange(11))[0].double() / 255
    assert made.mean == pytest.approx(whole.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert made.std == pytest.approx(whole.std((0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_the_checksum_is_of_names_and_contents(parted: Path) -> None:
    before = load_image_folder(parted).checksum
    assert load_image_folder(parted, image_size=9).checksum == before
    first, second = parted / "train" / "red" / "0.png", parted / "train" / "red" / "x.png"
    first.rename(second)
    renamed = load_image_folder(parted).checksum
    Image.new("RGB", (3, 3)).save(second)
    assert len({before, renamed, load_image_folder(parted).checksum}) == 3


def test_val_stands_for_test_and_without_train_a_fifth_of_each_class_tests(parted: Path) -> None:
    (parted / "test").rename(parted / "val")
    assert len(load_image_folder(parted).test) == 4
    one, two = (load_image_folder(parted / "train") for _ in range(2))
    assert (len(one.train), len(one.test)) == (8, 2)
    assert one.test.labels.tolist() == [0, 1]
    assert torch.equal(one.test.batch(torch.arange(2))[0], two.test.batch(torch.arange(2))[0])


def test_val_beside_test_validates_in_the_place_of_a_share(parted: Path) -> None:
    before = load_image_folder(parted).checksum
    shutil.copytree(parted / "test", parted / "val")
    (parted / "val" / "red" / "0.png").unlink()
    made = load_image_folder(parted)
    assert made.val is not None
    assert (len(made.val), len(made.test)) == (3, 4)
    assert made.checksum != before
    module = ImageDataModule(lambda: made, val_size=0.5)
    assert (len(module.train), module.val) == (len(made.train), made.val)
    shutil.rmtree(parted / "val" / "red")
    with pytest.raises(DataUnavailableError, match=r"red holds no picture"):
        load_image_folder(parted)


def test_a_rectangle_and_what_is_none(parted: Path) -> None:
    made = load_image_folder(parted, image_size=[12, 20])
    assert made.image_size == (12, 20)
    assert made.train.batch(torch.tensor([0, 3]))[0].shape == (2, 3, 12, 20)
    for wrong in (0, [12, 0], [12], [12, 20, 3]):
        with pytest.raises(ValueError, match=r"at least 1, or \[height, width\], and 1 or 3 chan"):
            load_image_folder(parted, image_size=wrong)


@pytest.mark.parametrize("seed", [0, 7])
def test_workers_give_what_the_process_itself_gives(parted: Path, seed: int) -> None:
    modules = [
        ImageDataModule(
            lambda: load_image_folder(parted, image_size=12),
            val_size=0.2,
            batch_size=3,
            shuffle_seed=seed,
            num_workers=workers,
        )
        for workers in (0, 2)
    ]
    assert [len(m.train) for m in modules] == [8, 8]
    own, theirs = ([b for _ in range(2) for b in m.train_dataloader()] for m in modules)
    assert len(own) == len(theirs) == 6
    for (images, labels), (images_2, labels_2) in zip(own, theirs, strict=True):
        assert torch.equal(images, images_2)
        assert torch.equal(labels, labels_2)


def test_modes_orientation_and_shape(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"

    def read(channels: int = 1, size: tuple[int, int] = (2, 2)) -> torch.Tensor:
        return read_picture(file, channels, size)

    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(file)  # all transparent
    assert read().unique().tolist() == [255]
    Image.fromarray(np.full((4, 4), 257 * 99, dtype=np.uint16)).save(file)  # 16 bits
    assert read().unique().tolist() == [99]
    Image.new("P", (4, 4), 0).save(file)
    assert read(3).shape == (3, 2, 2)
    Image.new("1", (4, 4), 1).save(file)
    assert read().unique().tolist() == [255]
    # wider than high: both sides are cut off alike
    Image.fromarray(np.array([[0, 0, 90, 90, 0, 0]] * 2, dtype=np.uint8)).save(file)
    assert read().unique().tolist() == [90]
    # turned by its EXIF tag: what is stored as the left column is the top row
    turned = Image.new("L", (2, 2))
    turned.putpixel((0, 0), 200)
    turned.putpixel((0, 1), 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(file, exif=exif)
    assert read()[0].tolist() == [[200, 200], [0, 0]]


def test_what_is_no_picture_is_named(parted: Path) -> None:
    bad = parted / "train" / "red" / "0.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match=r"red/0\.png: not a picture that can be read: "):
        load_image_folder(parted)
    with pytest.raises(DataFileError, match=r"red/0\.png: not a picture that can be read: "):
        read_picture(bad, 1, (8, 8))
    bad.write_text("text")
    with pytest.raises(DataFileError, match="no known format"):
        load_image_folder(parted)


def test_too_large_a_picture_is_an_error_not_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (11, 11)).save(tmp_path / "large.png")
    with pytest.raises(DataFileError, match=r"large\.png: too large a picture"):
        read_picture(tmp_path / "large.png", 1, (8, 8))


def test_folders_that_cannot_serve(parted: Path) -> None:
    with pytest.raises(DataUnavailableError, match=r"no folder .*; set data\.folder to one that"):
        load_image_folder(parted / "nowhere")
    with pytest.raises(ValueError, match="1 or 3 channels, but got 64 and 2"):
        load_image_folder(parted, channels=2)
    (parted / "test" / "green").mkdir()
    with pytest.raises(DataUnavailableError, match="classes that the training images lack: green"):
        load_image_folder(parted)
    shutil.rmtree(parted / "test")
    with pytest.raises(DataUnavailableError, match="a folder train, but neither test nor val"):
        load_image_folder(parted)
    with pytest.raises(DataUnavailableError, match=r"must hold a folder for each class.* has none"):
        load_image_folder(parted / "train" / "red")
    (parted / "train" / "green").mkdir()
    with pytest.raises(DataUnavailableError, match=r"green holds no picture \(known: \.png"):
        load_image_folder(parted / "train")
    Image.new("L", (2, 2)).save(parted / "train" / "green" / "one.png")
    with pytest.raises(DataUnavailableError, match="green holds one picture; a class needs two"):
        load_image_folder(parted / "train")


def test_what_hidden_folders_hold_is_ignored(parted: Path) -> None:
    before = len(load_image_folder(parted, image_size=24).train)
    hidden = parted / "train" / "red" / ".ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(parted / "train" / "red" / "0.png", hidden / "0-checkpoint.png")
    assert len(load_image_folder(parted, image_size=24).train) == before
    assert not [f for f in picture_files([parted]) if ".ipynb_checkpoints" in f.parts]


def test_a_picture_has_one_channel_or_three(parted: Path) -> None:
    with pytest.raises(DataFileError, match="a picture has 1 or 3 channels, and 4 are asked for"):
        read_picture(parted / "train" / "red" / "0.png", 4, (24, 24))
