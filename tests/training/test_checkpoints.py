"""Checkpoint files: whole or not there, damaged ones named, strangers' ones harmless."""

from __future__ import annotations

import hashlib
import os
import pickle
import resource
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnexp.training import CheckpointError, read_checkpoint, write_checkpoint
from cnnexp.training.resume.files import _COMMENT

CONTENT: dict[str, Any] = {
    "state_dict": {"weight": torch.arange(5000.0).view(50, 100)},
    "plain": [1, 2.5, "text", None, True, {"a": [3]}],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "last.ckpt", CONTENT)
    return tmp_path / "last.ckpt"


def test_what_is_written_is_read_by_us_and_by_torch(file: Path) -> None:
    for read in (read_checkpoint(file), torch.load(file, weights_only=True)):
        assert torch.equal(read["state_dict"]["weight"], CONTENT["state_dict"]["weight"])
        assert read["plain"] == CONTENT["plain"]
    assert [p.name for p in file.parent.iterdir()] == ["last.ckpt"]


def _flip(at: int) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", "is empty"),
    "text": (lambda whole: b"hello", "is truncated, or was not written by cnnexp"),
    "half": (lambda whole: whole[: len(whole) // 2], "is truncated, or was not"),
    "a byte short": (lambda whole: whole[:-1], "is truncated, or was not"),
    "a byte long": (lambda whole: whole + b"x", "is truncated, or was not"),
    "without its checksum": (lambda whole: whole[:-_COMMENT], "is truncated, or was not"),
    "first byte": (_flip(0), "is corrupt: its SHA-256 is not the one written in it"),
    "a weight": (_flip(9000), "is corrupt"),
    "in the directory": (_flip(-_COMMENT - 60), "is corrupt"),
    "in the checksum": (_flip(-1), "is corrupt"),
    "a zero page": (lambda whole: whole[:4096] + bytes(4096) + whole[8192:], "is corrupt"),
    "two halves exchanged": (lambda w: w[:100] + w[8000:-200] + w[100:8000] + w[-200:], "corrupt"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_noticed_and_names_the_file(name: str, file: Path) -> None:
    damage, message = DAMAGES[name]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"^{file}: .*{message}"):
        read_checkpoint(file)


class _Touch:
    """Pickled, an order to make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_strangers_pickle_is_refused_and_runs_nothing(file: Path) -> None:
    trap = file.parent / "trap"
    file.write_bytes(pickle.dumps(_Touch(trap)))
    with pytest.raises(CheckpointError, match="was not written by cnnexp"):
        read_checkpoint(file)
    write_checkpoint(file, {"state_dict": {}, "more": _Touch(trap)})  # with a checksum that fits
    with pytest.raises(CheckpointError, match="holds more than tensors and plain types"):
        read_checkpoint(file)
    assert not trap.exists()


def test_what_unpacks_to_more_than_its_size_is_refused(file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    whole = packed.read_bytes()
    digest = hashlib.sha256(whole[:-2]).hexdigest().encode()
    packed.write_bytes(whole[:-2] + _COMMENT.to_bytes(2, "little") + b"cnnexp sha256 " + digest)
    with pytest.raises(CheckpointError, match="holds compressed entries"):
        read_checkpoint(packed)


def test_a_missing_one_and_one_without_weights(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.ckpt: cannot be read: No such file"):
        read_checkpoint(file.with_name("none.ckpt"))
    write_checkpoint(file, {"plain": 1})
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        read_checkpoint(file)


def test_a_full_disk_leaves_what_was_there_and_nothing_else(file: Path) -> None:
    """A limit on the size of files stands in for the disk: writing fails half way, with OSError."""
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match=r"last\.ckpt could not be written|File too large"):
            write_checkpoint(file, {"state_dict": {"weight": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == ["last.ckpt"]
