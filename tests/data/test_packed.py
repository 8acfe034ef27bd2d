"""Image sets as they are published, packed by gzip: every set that comes so, in every state."""

from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.datasets as tv

from cnnexp.data import (
    DataFileError,
    DataUnavailableError,
    ImageSet,
    load_mnist,
    load_mnist_or_digits,
    load_torchvision_set,
)
from cnnexp.data.torchvision_sets import TORCHVISION_SETS
from tests.data.idx import write_mnist
from tests.data.official_files import WRITERS, held

SETS = ["mnist", *(name for name in TORCHVISION_SETS if name not in ("cifar10", "svhn"))]


@dataclass
class Published:
    """A small set, packed as it is published: its files without ``.gz``, and how it is loaded."""

    folder: Path
    names: list[str]
    load: Callable[[], ImageSet]
    plain: ImageSet

    def gz(self, which: int = 0) -> Path:
        return self.folder / f"{self.names[which]}.gz"

    def unpack(self, *which: int) -> None:
        for each in which:
            (self.folder / self.names[each]).write_bytes(
                gzip.decompress(self.gz(each).read_bytes())
            )


@pytest.fixture(params=SETS)
def published(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Published:
    name = request.param
    if name == "mnist":
        checksums = write_mnist(tmp_path)

        def load() -> ImageSet:
            return load_mnist(tmp_path, download=False, checksums=checksums)
    else:
        WRITERS[name](tmp_path, monkeypatch)

        def load() -> ImageSet:
            split = "letters" if name == "emnist" else None
            return load_torchvision_set(name, tmp_path, download=False, split=split)

    plain = load()
    (folder,) = tmp_path.glob("*/raw")
    names = sorted(file.name for file in folder.iterdir())
    md5s = {}
    for each in names:
        file = folder / each
        packed = gzip.compress(file.read_bytes(), mtime=0)
        (folder / f"{each}.gz").write_bytes(packed)
        md5s[f"{each}.gz"] = hashlib.md5(packed).hexdigest()
        file.unlink()
    kind = getattr(tv, folder.parent.name)
    if name in ("fashion_mnist", "kmnist"):
        ours: Any = [(url, md5s[url]) for url, _ in kind.resources]
        monkeypatch.setattr(kind, "resources", ours)
    elif name == "qmnist":
        ours = {
            part: [(url, md5s[url.rpartition("/")[2]]) for url, _ in kind.resources[part]]
            for part in ("train", "test")
        }
        monkeypatch.setattr(kind, "resources", ours)
    return Published(folder, names, load, plain)


def _same(one: ImageSet, two: ImageSet) -> bool:
    parts = [(held(one.train), held(two.train)), (held(one.test), held(two.test))]
    return one.checksum == two.checksum and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in parts
    )


@pytest.mark.parametrize("already", [(), (1,), (0, 3)], ids=["packed", "one not", "two not"])
def test_packed_files_are_unpacked_where_they_lie(
    published: Published, already: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    published.unpack(*already)
    os.chmod(published.gz(2), 0o644)
    with caplog.at_level(logging.INFO, "cnnexp"):
        assert _same(published.load(), published.plain)
    assert caplog.text.count("unpacked ") == 4 - len(already)
    packed = [f"{name}.gz" for name in published.names]
    assert sorted(os.listdir(published.folder)) == sorted([*published.names, *packed])
    assert (published.folder / published.names[2]).stat().st_mode & 0o777 == 0o644
    caplog.clear()
    assert _same(published.load(), published.plain)
    assert "unpacked" not in caplog.text


@pytest.mark.parametrize("already", [(), (1,)], ids=["packed", "one not"])
def test_a_folder_that_cannot_be_written(
    published: Published,
    already: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import cnnexp.data.packed as module

    published.unpack(*already)
    before = sorted(os.listdir(published.folder))
    made, whole = [], module.tempfile.mkstemp

    def refuse(*args: Any, **kwargs: Any) -> Any:
        made.append(Path(kwargs["dir"]))
        if made[-1] == published.folder:
            raise OSError(errno.EROFS, "Read-only file system")
        return whole(*args, **kwargs)

    monkeypatch.setattr(module.tempfile, "mkstemp", refuse)
    with caplog.at_level(logging.INFO, "cnnexp"):
        assert _same(published.load(), published.plain)
    assert caplog.text.count("cannot be written") == 1
    assert "unpacked elsewhere, for this run alone" in caplog.text
    assert sorted(os.listdir(published.folder)) == before
    assert not made[-1].exists()  # nothing is left in the temporary folder
    monkeypatch.setattr(module.tempfile, "mkstemp", lambda *a, **k: refuse(dir=published.folder))
    with pytest.raises(
        DataFileError, match=r"\.gz cannot be unpacked: .* cannot be written \(Read-only"
    ):
        published.load()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda whole: whole[: len(whole) // 2],
    "the tail cut off": lambda whole: whole[:-4],
    "one bit": lambda whole: whole[:-6] + bytes([whole[-6] ^ 16]) + whole[-5:],
    "empty": lambda whole: b"",
    "no gzip": lambda whole: b"<html>404: not found</html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(published: Published, damage: str) -> None:
    file = published.gz(1)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    sentence = (
        r"is damaged or cut off \(.+\); delete it to have it downloaded again, or fetch it anew"
    )
    with pytest.raises(DataFileError, match=sentence) as caught:
        published.load()
    assert str(caught.value).startswith(str(file))
    assert not (published.folder / published.names[1]).exists()


def test_another_set_s_files_are_no_official_ones(published: Published) -> None:
    file = published.gz(2)
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1] + b"\7"))
    if "emnist" in file.name:  # published in one archive, whose parts nobody gives md5s of
        published.load()
        return
    with pytest.raises(
        DataFileError, match=r"is not the official file: .*md5.* expected [0-9a-f]{32}"
    ):
        published.load()
    assert not (published.folder / published.names[2]).exists()


def test_three_of_four(published: Published) -> None:
    missing = published.gz(0)
    missing.unlink()
    sentence = f"missing: {published.names[0]}, packed as .gz or not"
    with pytest.raises(DataUnavailableError, match=sentence):
        published.load()
    for name in published.names[1:]:
        (published.folder / f"{name}.gz").unlink()
    with pytest.raises(DataUnavailableError) as caught:
        published.load()
    assert "packed as .gz" not in str(caught.value)


def test_the_notice_says_which_file_of_mnist_is_missing(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    notice = load_mnist_or_digits(tmp_path, download=False).notice
    assert "missing: t10k-labels-idx1-ubyte, packed as .gz or not" in notice


def test_a_damaged_packed_file_is_no_reason_to_fall_back(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in write_mnist(tmp_path / "other"):
        (folder / f"{name}.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataFileError, match=r"train-images-idx3-ubyte\.gz is damaged or cut off"):
        load_mnist_or_digits(tmp_path, download=False)


def test_what_is_corrupt_beside_its_packed_file_may_be_unpacked_again(tmp_path: Path) -> None:
    checksums = write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.write_bytes(b"x")
    with pytest.raises(
        DataFileError, match=r"delete it to have it unpacked from train-labels-idx1"
    ):
        load_mnist(tmp_path, download=False, checksums=checksums)
    file.unlink()
    assert len(load_mnist(tmp_path, download=False, checksums=checksums).train) == 40


def test_the_archive_of_emnist_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["emnist"](tmp_path, monkeypatch)
    plain = load_torchvision_set("emnist", tmp_path, download=False, split="letters")
    raw = tmp_path / "EMNIST" / "raw"
    with zipfile.ZipFile(raw / "gzip.zip", "w") as archive:
        for file in raw.glob("emnist-*"):
            archive.writestr(f"gzip/{file.name}.gz", gzip.compress(file.read_bytes()))
            file.unlink()
    with pytest.raises(
        DataFileError, match=r"gzip\.zip is damaged or not the official file: its md5"
    ):
        load_torchvision_set("emnist", tmp_path, download=False, split="letters")
    md5 = hashlib.md5((raw / "gzip.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(tv.EMNIST, "md5", md5)
    found = load_torchvision_set("emnist", tmp_path, download=False, split="letters")
    assert _same(found, plain)


def test_the_archive_of_cifar10_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["cifar10"](tmp_path, monkeypatch)
    plain = load_torchvision_set("cifar10", tmp_path, download=False)
    archive = tmp_path / tv.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / tv.CIFAR10.base_folder, tv.CIFAR10.base_folder)
    shutil.rmtree(tmp_path / tv.CIFAR10.base_folder)
    with pytest.raises(
        DataFileError, match=r"tar\.gz is damaged or not the official file: its md5"
    ):
        load_torchvision_set("cifar10", tmp_path, download=False)
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert _same(load_torchvision_set("cifar10", tmp_path, download=False), plain)
