"""Pictures of any size and colour, made from MNIST's own test images, are recognised as these are."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cnnexp.data import DataFileError, load_mnist
from cnnexp.inference import Prediction, load_trained, picture_files, predict
from cnnexp.inference.handwriting import read_character
from cnnexp.inference.prediction import is_of_characters
from cnnexp.runs import RunFolder

COUNT = 200
_RANDOM = random.Random(0)


def _page(image: Image.Image) -> Image.Image:
    """Blue ink somewhere on a sheet of paper."""
    page = Image.new("RGB", (640, 480), (245, 240, 225))
    where = (_RANDOM.randint(20, 400), _RANDOM.randint(20, 250))
    page.paste((30, 40, 160), where, image.resize((200, 200), Image.Resampling.BICUBIC))
    return page


def _board(image: Image.Image) -> Image.Image:
    """Chalk on a green board."""
    board = Image.new("RGB", (90, 60), (20, 60, 30))
    board.paste((240, 240, 200), (40, 10), image.resize((40, 40), Image.Resampling.BICUBIC))
    return board


def _scan(image: Image.Image) -> Image.Image:
    """Grain, and a shadow from one side to the other."""
    big = ImageOps.invert(image).resize((150, 150), Image.Resampling.BICUBIC)
    grey = np.asarray(big, dtype=float) + np.random.default_rng(0).normal(0, 6, (150, 150))
    return Image.fromarray((grey - np.linspace(0, 30, 150)).clip(0, 255).astype(np.uint8))


def _transparent(image: Image.Image) -> Image.Image:
    picture = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0), image.resize((100, 100), Image.Resampling.BICUBIC))
    return picture


KINDS: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "as it is": (lambda image: image, "png"),
    "negative": (ImageOps.invert, "png"),
    "large": (lambda i: ImageOps.invert(i).resize((300, 300), Image.Resampling.BICUBIC), "jpg"),
    "page": (_page, "png"),
    "board": (_board, "png"),
    "scan": (_scan, "png"),
    "transparent": (_transparent, "png"),
}


@pytest.fixture(scope="module")
def originals(mnist_root: Path) -> tuple[list[Image.Image], list[int]]:
    test = load_mnist(mnist_root, download=False).test
    images, labels = test.batch(torch.arange(COUNT))
    return [Image.fromarray(image[0].numpy()) for image in images], labels.tolist()


def _accuracy(found: list[Prediction], labels: list[int]) -> float:
    right = [each.top[0][0] == str(label) for each, label in zip(found, labels, strict=True)]
    return sum(right) / len(right)


@pytest.mark.parametrize("kind", KINDS)
def test_any_size_and_colour(
    kind: str,
    originals: tuple[list[Image.Image], list[int]],
    mnist_run: RunFolder,
    tmp_path: Path,
) -> None:
    images, labels = originals
    trained = load_trained(mnist_run)
    with torch.inference_mode():
        pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images])
        direct = trained.classifier(pixels.unsqueeze(1).float() / 255).argmax(1)
    reached = (direct == torch.tensor(labels)).float().mean().item()
    change, ending = KINDS[kind]
    files = []
    for i, image in enumerate(images):
        files.append(tmp_path / f"{i}.{ending}")
        change(image).save(files[-1])
    found = list(predict(trained, files))
    accuracy = _accuracy(found, labels)
    if kind in ("as it is", "negative"):
        assert accuracy == pytest.approx(reached)
    assert accuracy >= reached - 0.025  # five of two hundred
    assert all(len(each.top) == 3 for each in found)
    assert all(sum(share for _, share in each.top) <= 1 + 1e-6 for each in found)
    assert all(a[1] >= b[1] for each in found for a, b in zip(each.top, each.top[1:], strict=False))


def test_a_character_is_centred_and_light_on_dark(tmp_path: Path) -> None:
    page = Image.new("L", (100, 60), 250)
    page.paste(10, (70, 5, 74, 35))  # a stroke of 4 × 30, near a corner
    page.save(tmp_path / "one.png")
    pixels = read_character(tmp_path / "one.png", (28, 28))[0].float()
    rows, columns = (pixels > 100).nonzero(as_tuple=True)
    assert (rows.min(), rows.max()) == (4, 23)  # 20 of 28, in the middle
    assert columns.min() in (12, 13)
    assert columns.max() in (14, 15)
    assert pixels.max() == 255
    assert pixels[0].sum() == 0


def test_whether_pictures_are_characters_is_not_told_by_the_name_of_a_folder(
    digits_run: RunFolder,
) -> None:
    trained = load_trained(digits_run)
    assert is_of_characters(trained)
    for loader in ("load_image_folder", "load_arrays", "load_csv"):
        data = {"_target_": f"cnnexp.data.{loader}"}
        assert not is_of_characters(replace(trained, config={**trained.config, "data": data}))


def test_blank_and_broken_pictures_are_named(digits_run: RunFolder, tmp_path: Path) -> None:
    trained = load_trained(digits_run)
    assert is_of_characters(trained)
    Image.new("RGB", (40, 40), "white").save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (30, 30), 255).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:200])
    drawn = Image.new("L", (40, 40), 255)
    drawn.paste(0, (18, 8, 22, 30))
    drawn.save(tmp_path / "z.png")
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / "empty").mkdir()
    files = list(picture_files([tmp_path, tmp_path / "none.png", tmp_path / "empty"]))
    found = {each.file.name: each for each in predict(trained, files, top=99)}
    assert list(found) == ["blank.png", "cut.jpg", "text.png", "z.png", "none.png", "empty"]
    assert found["blank.png"].error.endswith("blank.png: nothing is drawn in it")
    assert "not a picture that can be read" in found["cut.jpg"].error
    assert "no known format" in found["text.png"].error
    assert found["none.png"].error.endswith("none.png: there is no such file")
    assert found["empty"].error.endswith("there is no picture in this folder")
    assert sum(share for _, share in found["z.png"].top) == pytest.approx(1)
    assert len(found["z.png"].top) == 10


def test_a_picture_may_be_taken_whole(digits_run: RunFolder, tmp_path: Path) -> None:
    trained = load_trained(digits_run)
    Image.new("L", (40, 40), 255).save(tmp_path / "blank.png")
    (whole,) = predict(trained, [tmp_path / "blank.png"], characters=False)
    assert whole.top
    assert not whole.error


def test_nothing_drawn_is_an_error(tmp_path: Path) -> None:
    Image.new("L", (28, 28), 0).save(tmp_path / "black.png")
    with pytest.raises(DataFileError, match=r"black\.png: nothing is drawn in it"):
        read_character(tmp_path / "black.png", (28, 28))
