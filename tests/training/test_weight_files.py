"""Files of weights from strangers: tensors come out of them, or one message, and nothing is run."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnexp.training.weight_files import WeightFileError, file_sha256, read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("inside", [None, "state_dict", "model_state_dict", "model"])
def test_what_torch_save_wrote(tmp_path: Path, inside: str | None) -> None:
    file = tmp_path / "w.pth"
    torch.save(WEIGHTS if inside is None else {inside: WEIGHTS, "epoch": 3}, file)
    found = read_weights(file, file_sha256(file))
    assert list(found) == list(WEIGHTS)
    assert torch.equal(found["a.weight"], WEIGHTS["a.weight"])


def test_the_older_format_of_torch_save(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(file)["a.weight"], WEIGHTS["a.weight"])


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    file = tmp_path / "w.safetensors"
    safetensors.save_file(WEIGHTS, file)
    assert torch.equal(read_weights(file)["a.weight"], WEIGHTS["a.weight"])
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(WeightFileError, match="is no safetensors file"):
        read_weights(file)


class _Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_pickle_that_would_run_something_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"a": torch.zeros(1), "b": _Evil(mark)}, tmp_path / "w.pth")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": _Evil(mark)}))
    for name in ("w.pth", "plain.pt"):
        with pytest.raises(
            WeightFileError, match=r"is no file of torch.save with tensors and plain"
        ):
            read_weights(tmp_path / name)
    assert not mark.exists()


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "w.pth")
    packing = zipfile.ZipFile(tmp_path / "z.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "w.pth") as plain, packing as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(WeightFileError, match="compressed entries"):
        read_weights(tmp_path / "z.pth")
    torch.save({"a": torch.zeros(1), "b": bytearray(10)}, tmp_path / "b.pth")
    with pytest.raises(WeightFileError, match="bytearray"):
        read_weights(tmp_path / "b.pth")
    torch.save({"a": torch.zeros(1).expand(1 << 30)}, tmp_path / "e.pth")
    with pytest.raises(WeightFileError, match="larger than the file"):
        read_weights(tmp_path / "e.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [([torch.zeros(1)], "holds list, not tensors by name"), ({"a": 1}, "holds no tensors by name")],
)
def test_what_holds_no_weights(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightFileError, match=message):
        read_weights(tmp_path / "w.pth")


def test_a_file_that_is_missing_or_another_one(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    with pytest.raises(WeightFileError, match="cannot be read: No such file"):
        read_weights(file)
    torch.save(WEIGHTS, file)
    assert file_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(WeightFileError, match=r"not 00: it has changed"):
        read_weights(file, "00")
