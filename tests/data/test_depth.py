"""Every way to store a grey picture, read for a data set, for a network's user and for a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import cnnexp.data.image_folder as image_folder
from cnnexp.data import DataFileError, ValueRange, checked_range, load_image_folder
from cnnexp.data.picture_files import read_picture
from cnnexp.explanation import load_untrained, picture
from cnnexp.inference import TrainedNetwork, predict
from cnnexp.inference.handwriting import read_character
from cnnexp.inference.prediction import read_for
from tests.data.picture_files import write_tiff

GREY = np.zeros(
    (28, 28), np.uint8
)  # dark paper, as MNIST's: a character's picture is taken as it is
GREY[4:24, 4:24] = np.linspace(0, 255, 400).round().reshape(20, 20)
SHARE = GREY / 255


def _scaled(black: float, white: float, dtype: str) -> np.ndarray:
    values = black + SHARE * (white - black)
    return (values.round() if np.dtype(dtype).kind in "iu" else values).astype(dtype)


def _saved(black: float, white: float, dtype: str, **options: Any) -> Callable[[Path], None]:
    return lambda file: Image.fromarray(_scaled(black, white, dtype)).save(file, **options)


def _tiff(black: float, white: float, dtype: str, **options: Any) -> Callable[[Path], None]:
    return lambda file: write_tiff(file, _scaled(black, white, dtype), **options)


def _as(mode: str, **options: Any) -> Callable[[Path], None]:
    return lambda file: Image.fromarray(GREY).convert(mode).save(file, **options)


def _colours(white: float) -> Callable[[Path], None]:
    values = _scaled(0, white, "uint16")
    return lambda file: write_tiff(file, np.stack([values] * 3, 2))


def _animated(file: Path) -> None:
    first, others = Image.fromarray(GREY), [Image.new("L", (28, 28), 99)]
    first.save(file, save_all=True, append_images=others)


@dataclass(frozen=True)
class Kind:
    """How a file is made, and the range that must be stated, if its format does not say it."""

    ending: str
    write: Callable[[Path], None]
    needs: ValueRange | None = None
    near: int = 1  # by how much a pixel may differ


KINDS = {
    "8 bits": Kind("png", _as("L")),
    "palette": Kind("png", _as("P")),
    "grey and alpha": Kind("png", _as("LA")),
    "grey and alpha, TIFF": Kind("tif", _as("LA")),
    "palette and alpha": Kind("tif", _as("PA")),
    "colour": Kind("bmp", _as("RGB")),
    "colour and alpha": Kind("png", _as("RGBA")),
    "colour and alpha, WebP": Kind("webp", _as("RGBA", lossless=True)),
    "CMYK": Kind("tif", _as("CMYK")),
    "CMYK, JPEG": Kind("jpg", _as("CMYK", quality=100), near=8),
    "YCbCr": Kind("tif", _as("YCbCr"), near=2),
    "LAB": Kind("tif", _as("LAB"), near=3),
    "animation": Kind("gif", _animated),
    "16 bits": Kind("png", _saved(0, 65535, "uint16")),
    "16 bits, TIFF": Kind("tif", _saved(0, 65535, "uint16")),
    "16 bits, compressed": Kind("tif", _saved(0, 65535, "uint16", compression="tiff_lzw")),
    "16 bits, big-endian": Kind("tif", _saved(0, 65535, ">u2")),
    "16 bits, PGM": Kind("pgm", _saved(0, 65535, "uint16")),
    "16 bits, JPEG 2000": Kind("jp2", _saved(0, 65535, "uint16")),
    "16 bits, colours": Kind("tif", _colours(65535)),
    "16 bits, white is zero": Kind("tif", _tiff(65535, 0, "uint16", white_is_zero=True)),
    "12 bits": Kind("tif", _tiff(0, 4095, "uint16", bits=12)),
    "8 bits in 16": Kind("png", _saved(0, 255, "uint16"), (0, 255)),
    "8 bits in 16, TIFF": Kind("tif", _saved(0, 255, "uint16"), (0, 255)),
    "signed 16 bits": Kind("tif", _tiff(-32768, 32767, "int16"), (-32768, 32767)),
    "signed 16 bits from 0": Kind("tif", _tiff(0, 32767, "int16"), (0, 32767)),
    "32 bits of 0…255": Kind("tif", _saved(0, 255, "int32"), (0, 255)),
    "32 bits of 0…65535": Kind("tif", _saved(0, 65535, "int32"), (0, 65535)),
    "32 bits of −1000…1000": Kind("tif", _saved(-1000, 1000, "int32"), (-1000, 1000)),
    "unsigned 32 bits": Kind("tif", _tiff(0, 2**32 - 1, "uint32"), (0, 2**32 - 1)),
    "float of 0…1": Kind("tif", _saved(0, 1, "float32"), (0, 1)),
    "float of 0…1, compressed": Kind(
        "tif", _saved(0, 1, "float32", compression="tiff_lzw"), (0, 1)
    ),
    "float of 0…1, PFM": Kind("pfm", _saved(0, 1, "float32", format="PPM"), (0, 1)),
    "float of 0…255": Kind("tif", _saved(0, 255, "float32"), (0, 255)),
    "float of 0…65535": Kind("tif", _saved(0, 65535, "float32"), (0, 65535)),
    "float of −1…1": Kind("tif", _saved(-1, 1, "float32"), (-1, 1)),
    "float, white is zero": Kind("tif", _saved(1, 0, "float32"), (1, 0)),
}

NETWORK = ("data=synthetic", "data.size=20", "data.val_size=2", "model=lenet5", "accelerator=cpu")


@pytest.fixture(scope="module")
def network() -> TrainedNetwork:
    return load_untrained(NETWORK)[0]


def _of_folder(file: Path, _: TrainedNetwork, stated: ValueRange | None) -> Tensor:
    for name in ("one", "two"):
        for part in ("train", "test"):
            (file.parent / part / name).mkdir(parents=True, exist_ok=True)
            (file.parent / part / name / file.name).write_bytes(file.read_bytes())
    found = load_image_folder(file.parent, image_size=28, channels=1, value_range=stated)
    return found.train.batch(torch.tensor([1]))[0][0]


def _of_page(file: Path, network: TrainedNetwork, stated: ValueRange | None) -> Tensor:
    return 255 * picture(network, file, "" if stated is None else str(list(stated))).pixels


def _is_read(file: Path) -> bool:
    with open(file, "rb") as stream:
        try:
            Image.open(stream).load()
        except OSError:
            return False
    return True


READERS: dict[str, Callable[[Path, TrainedNetwork, ValueRange | None], Tensor]] = {
    "data=image_folder": _of_folder,
    "predict": lambda f, network, stated: read_for(network, f, False, stated),
    "predict, handwriting": lambda f, network, stated: read_for(network, f, True, stated),
    "explain": _of_page,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_stored_is_read_or_refused(
    name: str, reader: str, network: TrainedNetwork, tmp_path: Path
) -> None:
    kind = KINDS[name]
    if reader == "data=image_folder" and kind.ending in ("jp2", "pfm"):
        pytest.skip("a data set passes over files of this kind")
    file = tmp_path / f"picture.{kind.ending}"
    kind.write(file)
    if name == "YCbCr" and not _is_read(file):
        pytest.skip("this Pillow does not read the YCbCr that it writes")
    if kind.needs is not None:
        with pytest.raises(
            DataFileError, match="nothing says which number is black and which is wh"
        ):
            READERS[reader](file, network, None)
    found = READERS[reader](file, network, kind.needs)
    assert (found.shape, found.min(), found.max()) == ((1, 28, 28), 0, 255)
    assert np.abs(found[0].numpy().astype(float) - GREY).max() <= kind.near


def test_the_sentence_names_what_is_there_and_the_next_step(tmp_path: Path) -> None:
    for write, said in (
        (_saved(0, 1, "float32"), r"floating-point numbers from 0 to 1, .* value_range=\[0,1\]"),
        (
            _saved(0, 255, "int32"),
            r"signed 32-bit integers from 0 to 255, .* value_range=\[0,255\]",
        ),
        (_saved(0, 200, "uint16"), r"16-bit integers from 0 to 200, .* value_range=\[0,255\]"),
        (
            _tiff(-5, 900, "int16"),
            r"signed 16-bit integers from -5 to 900, .* value_range=\[-5,900\]",
        ),
        (_colours(255), "16-bit integers of at most 255, .*; save it with 8 bits a channel"),
    ):
        write(tmp_path / "x.tif")
        with pytest.raises(DataFileError, match=said):
            read_picture(tmp_path / "x.tif", 1, (8, 8))


def _with(value: float, dtype: str) -> np.ndarray:
    values = _scaled(0, 1, "float32")
    values[3, 3] = value
    return values.astype(dtype)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (_with(float("nan"), "float32"), "NaN among its pixels"),
        (_with(float("inf"), "float32"), "infinite numbers among its pixels"),
        (_with(-0.5, "float32"), r"from -0\.5 to 1, outside of value_range=\[0,1\]"),
        (_with(1.25, "float32"), r"from 0 to 1\.25, outside of value_range=\[0,1\]"),
        (
            _with(-7, "int32"),
            r"signed 32-bit integers from -7 to 1, outside of value_range=\[0,1\]",
        ),
        (_with(9, "uint16"), r"16-bit integers from 0 to 9, outside of value_range=\[0,1\]"),
    ],
)
def test_numbers_that_cannot_be(values: np.ndarray, said: str, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(DataFileError, match=said):
        read_picture(tmp_path / "x.tif", 1, (8, 8), (0, 1))
    with pytest.raises(DataFileError):
        read_character(tmp_path / "x.tif", (28, 28))


def test_one_bit(tmp_path: Path, network: TrainedNetwork) -> None:
    for ending in ("png", "tif", "bmp", "pbm"):
        Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE).save(tmp_path / f"x.{ending}")
        found = read_for(network, tmp_path / f"x.{ending}", False)[0].numpy()
        assert (found == 255 * (GREY > 127)).all()


def test_rounding_is_not_outside(tmp_path: Path) -> None:
    Image.fromarray(_with(1 + 2e-7, "float32")).save(tmp_path / "x.tif")
    assert read_picture(tmp_path / "x.tif", 1, (28, 28), (0, 1)).max() == 255


def test_a_range_goes_with_grey_pictures_and_leaves_8_bits_alone(tmp_path: Path) -> None:
    _colours(65535)(tmp_path / "x.tif")
    with pytest.raises(DataFileError, match=r"value_range=\[0,4095\] goes with grey pictures"):
        read_picture(tmp_path / "x.tif", 1, (8, 8), (0, 4095))
    _as("L")(tmp_path / "x.png")
    read = [read_picture(tmp_path / "x.png", 1, (28, 28), stated) for stated in (None, (0, 4095))]
    assert torch.equal(*read)


def test_black_is_black_and_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((28, 28), np.uint16)).save(tmp_path / "x.png")
    assert read_picture(tmp_path / "x.png", 1, (28, 28)).max() == 0
    values = np.full((28, 28), 65535 // 2, np.uint16)
    values[:, :9] = 500
    Image.fromarray(values).save(tmp_path / "x.png", transparency=500)
    assert read_picture(tmp_path / "x.png", 1, (28, 28)).unique().tolist() == [127, 255]


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "webp", "tif", "pgm", "jp2"])
def test_a_file_that_is_cut_off(ending: str, tmp_path: Path, network: TrainedNetwork) -> None:
    file = tmp_path / f"x.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)).save(file)
    whole = file.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 60):
        file.write_bytes(whole[:size])
        (found,) = predict(network, [file], characters=False)
        assert "not a picture that can be read: " in found.error, size


def test_colours_that_pillow_does_not_convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("conversion not supported")

    _as("CMYK")(tmp_path / "x.tif")
    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(DataFileError, match=r"colours are of the kind CMYK, .*; save it as RGB"):
        read_picture(tmp_path / "x.tif", 3, (8, 8))


def test_what_a_picture_means_is_asked_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "_MEASURED", 1)
    for part in ("train", "test"):
        for name in ("one", "two"):
            (tmp_path / part / name).mkdir(parents=True)
            _as("L")(tmp_path / part / name / "x.png")
    _saved(0, 1, "float32")(tmp_path / "test" / "two" / "y.tif")
    with pytest.raises(DataFileError, match=r"test/two/y\.tif: its pixels are floating-point"):
        load_image_folder(tmp_path, channels=1)
    assert len(load_image_folder(tmp_path, channels=1, value_range=[0, 1]).test) == 3


def test_a_range_is_two_numbers() -> None:
    assert checked_range(None) is None
    assert checked_range([0, 4095]) == (0.0, 4095.0)
    for wrong in (1, "01", [0], [0, 0], [0, 1, 2], ["0", 1], [0, float("inf")], [False, True]):
        with pytest.raises(
            ValueError, match="must be two different numbers, what is black and what"
        ):
            checked_range(wrong)
