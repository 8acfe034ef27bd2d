"""Weights in files that may come from strangers: read without running anything in them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnexp.training.resume.files import CheckpointError, verify_archive

__all__ = ["WeightFileError", "file_sha256", "read_weights"]

_INSIDE = (
    "state_dict",
    "model_state_dict",
    "model",
)  # where programs put a state dict among others
_BLOCK = 1 << 20


class WeightFileError(RuntimeError):
    """A file of weights is missing, corrupt, or holds more than tensors."""


def file_sha256(file: Path) -> str:
    """The SHA-256 of ``file``'s content, in hexadecimal, as ``sha256sum`` prints it.

    Raises:
        WeightFileError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise WeightFileError(f"{file}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def read_weights(file: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors in ``file``, by name, on the CPU.

    A ``.safetensors`` file holds nothing else. Any other is read by ``torch.load`` with
    ``weights_only=True``, once its archive is found to unpack to no more than its own size; its tensors
    may stand under ``state_dict``, ``model_state_dict`` or ``model``.

    Args:
        file: The file.
        sha256: What the SHA-256 of its content must be; None for anything.

    Raises:
        WeightFileError: It is missing, corrupt, another one than ``sha256`` says, or holds no tensors or
            more than tensors and plain types.
    """
    found = file_sha256(file)
    if sha256 is not None and found != sha256:
        raise WeightFileError(f"{file}: has the SHA-256 {found}, not {sha256}: it has changed")
    content = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    for name in _INSIDE:
        if isinstance(inner := content.get(name), Mapping):
            content = inner
            break
    weights = {str(n): v.detach() for n, v in content.items() if isinstance(v, Tensor)}
    if not weights:
        raise WeightFileError(f"{file}: holds no tensors by name")
    size = file.stat().st_size
    if sum(value.numel() * value.element_size() for value in weights.values()) > size:
        raise WeightFileError(f"{file}: holds tensors that are larger than the file")
    return weights


def _safetensors(file: Path) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightFileError(
            f"{file}: needs the package safetensors: pip install 'cnnexp[export]'"
        ) from error
    try:
        return load_file(file, device="cpu")
    except Exception as error:  # safetensors has an exception of its own
        reason = " ".join(str(error).split())
        raise WeightFileError(f"{file}: is no safetensors file: {reason}") from error


def _pickled(file: Path) -> Mapping[str, Any]:
    try:
        size = file.stat().st_size
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                verify_archive(file, archive, size)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise WeightFileError(str(error)) from error
    except Exception as error:
        # of pickle, zip or torch: it is none of torch's files, or a malicious one
        reason = str(error).partition("\n")[0]
        raise WeightFileError(
            f"{file}: is no file of torch.save with tensors and plain types alone: {reason}"
        ) from error
    if not isinstance(content, Mapping):
        raise WeightFileError(f"{file}: holds {type(content).__name__}, not tensors by name")
    return content
