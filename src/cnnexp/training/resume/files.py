"""Checkpoint files: written whole or not at all, with a checksum, read without running anything.

A checkpoint is what ``torch.save`` writes, a zip archive; its SHA-256 stands in the archive's comment,
at the end of the file. So one rename replaces contents and checksum together, and
``torch.load(file, weights_only=True)`` reads it as any other.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from cnnexp.runs.files import write_file

_MARK = b"cnnexp sha256 "
_COMMENT = len(_MARK) + 64
_END = 22  # bytes of a zip archive's end record, whose last two are the length of the comment
_BLOCK = 1 << 20


class CheckpointError(RuntimeError):
    """A checkpoint is missing, truncated, corrupt, or none of cnnexp's."""


def write_checkpoint(file: Path, content: dict[str, Any]) -> None:
    """Replace ``file`` by ``content``, tensors and plain types, in one step.

    Raises:
        OSError: It cannot be written; what was there stays.
    """

    def write(stream: BinaryIO) -> None:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # torch's writer hides what the system says
            code = _errno(error)
            raise OSError(code, os.strerror(code), str(file)) from error
        digest = _digest(stream, stream.seek(0, os.SEEK_END))
        stream.seek(-2, os.SEEK_END)
        stream.write(struct.pack("<H", _COMMENT) + _MARK + digest)

    write_file(file, write)


def _errno(error: BaseException) -> int:
    """The number of the system's error behind ``error``; that of a full disk, if there is none."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.errno:
        return cause.errno
    return errno.ENOSPC if cause is None else _errno(cause)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The content of ``file``, on the CPU, once its checksum is verified.

    Nothing in it is run: it is read with ``weights_only=True``, and an archive that would unpack to
    more than its own size is refused.

    Raises:
        CheckpointError: The file is missing, truncated, corrupt, or none that cnnexp wrote.
    """
    try:
        if file.exists() and not file.is_file():
            raise CheckpointError(f"{file}: is no file")
        with file.open("rb") as stream:
            _verify(file, stream)
            stream.seek(0)
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # the checksum is right, so somebody made it so
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file}: holds more than tensors and plain types: {reason}"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{file}: holds no state_dict")
    return content


def read_own_checkpoint(file: Path, folder: Path, identity: str) -> dict[str, Any]:
    """The content of a checkpoint of the run in ``folder``, whose identity is ``identity``.

    Raises:
        CheckpointError: As :func:`read_checkpoint`; or it is another run's, or a link to outside.
    """
    if file.resolve().parent.parent != folder.resolve():
        raise CheckpointError(f"{file}: is a link to outside the run folder")
    content = read_checkpoint(file)
    own = content.get("run")
    if identity and own is not None and own != identity:
        raise CheckpointError(f"{file}: is of another run (another config than config.yaml's)")
    return content


def _verify(file: Path, stream: BinaryIO) -> None:
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        raise CheckpointError(f"{file}: is empty")
    stream.seek(max(0, size - _END - _COMMENT))
    tail = stream.read()
    if not tail[:-_COMMENT].startswith(b"PK\5\6") or not tail[_END:].startswith(_MARK):
        raise CheckpointError(f"{file}: is truncated, or was not written by cnnexp")
    if _digest(stream, size - _COMMENT) != tail[-64:]:
        raise CheckpointError(f"{file}: is corrupt: its SHA-256 is not the one written in it")
    with zipfile.ZipFile(stream) as archive:
        verify_archive(file, archive, size)


def verify_archive(file: Path, archive: zipfile.ZipFile, size: int) -> None:
    """Make sure that ``archive``, of ``size`` bytes in ``file``, cannot ask for more memory than that.

    Raises:
        CheckpointError: Its entries are compressed, overlap, or hold what makes memory of any size.
    """
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{file}: holds compressed entries, which cnnexp does not write")
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(f"{file}: holds entries that overlap, which cnnexp does not write")
    for entry in entries:  # weights_only lets a pickle ask for any amount of memory by this name
        if entry.filename.endswith(".pkl") and b"\nbytearray\n" in archive.read(entry):
            raise CheckpointError(f"{file}: holds more than tensors and plain types: bytearray")


def _digest(stream: BinaryIO, size: int) -> bytes:
    """SHA-256, in hexadecimal, of the first ``size`` bytes, the comment's length taken as 0."""
    digest = hashlib.sha256()
    stream.seek(0)
    left = size - 2
    while left > 0:
        block = stream.read(min(left, _BLOCK))
        if not block:
            break
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()
