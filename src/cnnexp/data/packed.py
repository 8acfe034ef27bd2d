"""Image sets as they are published: downloaded, each file gzipped; verified and unpacked where it lies."""

from __future__ import annotations

import gzip
import hashlib
import logging
import shutil
import socket
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cnnexp.data.images import DataFileError
from cnnexp.runs.files import write_file

log = logging.getLogger(__name__)

_TIMEOUT = 15.0  # seconds that a download may be without an answer


@contextmanager
def download_timeout() -> Iterator[None]:
    """Let torchvision's download, which sets no time limit, fail instead of hang."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@dataclass(frozen=True)
class Official:
    """The known checksums of a published file; None where one is not known.

    Attributes:
        packed: md5 of the packed file, whose name ends in ``.gz``.
        content: md5 of the unpacked file.
    """

    packed: str | None = None
    content: str | None = None


def packed_file(folder: Path, name: str) -> Path | None:
    """The packed form of file ``name``: in ``folder`` or its folder ``gzip`` (EMNIST's); None if
    missing.
    """
    places = (folder / f"{name}.gz", folder / "gzip" / f"{name}.gz")
    return next((place for place in places if place.is_file()), None)


def lacking(folder: Path, names: Iterable[str]) -> list[str]:
    """The files among ``names`` that ``folder`` holds neither unpacked nor packed."""
    return [n for n in names if not (folder / n).is_file() and packed_file(folder, n) is None]


def named_missing(missing: Sequence[str], files: Collection[str]) -> str:
    """Say which files are ``missing`` and, where the others of ``files`` are there, in which forms
    they may come.
    """
    forms = "" if len(missing) == len(files) else ", packed as .gz or not"
    return f"missing: {', '.join(missing)}{forms}"


@contextmanager
def unpacked(root: Path, kind: str, files: Mapping[str, Official]) -> Iterator[Path]:
    """A folder like ``root`` in whose ``<kind>/raw`` all of ``files`` lie unpacked.

    It is ``root`` itself: packed files are unpacked next to themselves, each completely or not at all.
    Where that folder cannot be written, a temporary folder takes its place.

    Args:
        root: The folder whose ``<kind>/raw`` lacks none of them, see :func:`lacking`.
        kind: The name of the set's folder, for example ``"MNIST"``.
        files: The known checksums of each file, by its name without ``.gz``.

    Raises:
        DataFileError: A packed file is damaged, or not the official one, or there is no room for its
            content.
    """
    folder = place = root / kind / "raw"
    with ExitStack() as temporary:
        for name, official in files.items():
            packed = packed_file(folder, name)
            if (folder / name).is_file() or packed is None:
                continue
            content = _content(packed, official)
            if place == folder and (why := _failed_to_write(place / name, content, packed)):
                log.info("%s: unpacked elsewhere, for this run alone", why)
                made = temporary.enter_context(tempfile.TemporaryDirectory(prefix="cnnexp-"))
                place = Path(made) / kind / "raw"
                place.mkdir(parents=True)
            if place != folder and (why := _failed_to_write(place / name, content, packed)):
                raise DataFileError(f"{packed} cannot be unpacked: {why}")
        if place != folder:
            for name in files:
                if not (place / name).exists():
                    (place / name).symlink_to((folder / name).resolve())
        yield place.parents[1]


def _content(packed: Path, official: Official) -> bytes:
    again = "delete it to have it downloaded again, or fetch it anew"
    try:
        whole = packed.read_bytes()
        content = gzip.decompress(whole)
        if not whole:
            raise EOFError("it is empty")
    except (OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataFileError(f"{packed} is damaged or cut off ({reason}); {again}") from error
    for part, data, expected in (
        ("its md5", whole, None if official.content else official.packed),
        ("the md5 of what is in it", content, official.content),
    ):
        found = hashlib.md5(data).hexdigest()
        if expected not in (None, found):
            raise DataFileError(
                f"{packed} is not the official file: {part} is {found}, expected {expected}; {again} "
                f"(a file that you packed yourself: unpack it there, gunzip {packed.name})"
            )
    return content


def _failed_to_write(file: Path, content: bytes, like: Path) -> str:
    """Write ``file`` completely or not at all, readable for whoever may read ``like``; return why it failed.

    The reason is empty if the file was written.
    """
    try:
        write_file(file, lambda stream: stream.write(content))
        shutil.copymode(like, file)
    except OSError as error:
        return f"{file.parent} cannot be written ({error.strerror or error})"
    log.info("unpacked %s", like)
    return ""
