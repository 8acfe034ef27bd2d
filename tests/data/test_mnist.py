from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cnnexp.data import (
    DataFileError,
    DataUnavailableError,
    load_digits,
    load_mnist,
    load_mnist_or_digits,
)
from tests.data.idx import write_mnist
from tests.data.official_files import held


def test_real_mnist(mnist_root: Path) -> None:
    images = load_mnist(mnist_root, download=False)
    assert (len(images.train), len(images.test)) == (60_000, 10_000)
    assert held(images.train).images.shape == (60_000, 1, 28, 28)
    assert held(images.train).images.dtype == torch.uint8
    assert images.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # as everyone knows
    assert images.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    pixels = held(images.train).images.float() / 255
    assert pixels.mean().item() == pytest.approx(images.mean[0], abs=5e-5)
    assert pixels.std().item() == pytest.approx(images.std[0], abs=5e-5)
    assert (images.name, images.channels, images.image_size) == ("mnist", 1, (28, 28))


def test_files_in_the_official_format(tmp_path: Path) -> None:
    checksums = write_mnist(tmp_path)
    images = load_mnist(tmp_path, download=False, checksums=checksums)
    assert (len(images.train), len(images.test)) == (40, 20)
    assert images.test.labels.tolist() == [i % 10 for i in range(20)]


@pytest.mark.parametrize("harm", ["truncated", "one bit", "empty"])
def test_a_corrupt_file_is_named_with_the_checksum_expected(tmp_path: Path, harm: str) -> None:
    checksums = write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[500] ^= harm == "one bit"
    file.write_bytes(content[: {"truncated": 900, "empty": 0}.get(harm, len(content))])
    with pytest.raises(DataFileError) as caught:
        load_mnist(tmp_path, download=False, checksums=checksums)
    assert str(file) in str(caught.value)
    assert f"expected {checksums[file.name]}" in str(caught.value)
    assert "delete it to have it downloaded again" in str(caught.value)


def test_files_that_are_not_idx_are_refused_even_with_the_right_checksum(tmp_path: Path) -> None:
    checksums = write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    file.write_bytes(b"labels")
    checksums[file.name] = "42cecfeff00cc916fef4f64e7b921079"
    with pytest.raises(DataFileError, match="not in the IDX format"):
        load_mnist(tmp_path, download=False, checksums=checksums)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataUnavailableError, match=r"missing: t10k-labels-idx1-ubyte"):
        load_mnist(tmp_path, download=False)


def test_without_mnist_the_digits_carry_a_notice(tmp_path: Path) -> None:
    images = load_mnist_or_digits(tmp_path, download=False)
    assert images.name == "digits"
    assert images.notice.startswith("NO MNIST: MNIST is not in ")
    assert "do not compare with MNIST's" in images.notice


def test_without_mnist_and_fallback_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match=r"data.fallback=digits to train on the bundled"):
        load_mnist_or_digits(tmp_path, fallback="error", download=False)


def test_a_corrupt_file_is_never_a_reason_to_fall_back(tmp_path: Path) -> None:
    write_mnist(tmp_path)  # right format, but not the official content
    with pytest.raises(DataFileError, match="train-images-idx3-ubyte is corrupt or truncated"):
        load_mnist_or_digits(tmp_path, download=False)


def test_a_failed_download_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    with pytest.raises(DataUnavailableError, match=r"could not be downloaded \(.*refused"):
        load_mnist(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_digits_are_real_and_split_once_for_all() -> None:
    digits = load_digits()
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert held(digits.train).images.shape == (1437, 1, 28, 28)
    assert held(digits.train).images.dtype == torch.uint8
    assert digits.test.labels.bincount().min() >= 34  # every class, a fifth of each
    assert digits.checksum == load_digits().checksum
    pixels = held(digits.train).images.float() / 255
    assert pixels.mean().item() == pytest.approx(digits.mean[0], abs=1e-4)
    with pytest.raises(ValueError, match="image_size of at least 8, but got 4"):
        load_digits(4)
