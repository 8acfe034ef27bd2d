"""Files that are whole or not there."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, or quota, says
_IN_PLACE = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS)  # where a file cannot be replaced
_LARGEST_JSON, _LARGEST_YAML = 1 << 24, 1 << 20  # bytes
SCRATCH = ".part"  # how the names of files end that are being written


class RunFolderError(RuntimeError):
    """A file of a run folder is damaged."""


def write_file(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace ``file`` in one step by what ``write`` puts into the stream that it gets.

    It is on the disk before it gets its name, so that neither a reader nor a crash ever meets half of
    it; what was there before stays until then.

    Raises:
        OSError: It cannot be written: no room, no permission, no such folder; it names ``file``.
    """
    try:
        _replace(file, write)
    except OSError as error:  # which names a scratch file, or where there is no room, none
        error.filename, error.filename2 = str(file), None
        raise


def _replace(file: Path, write: Callable[[BinaryIO], object]) -> None:
    handle, scratch = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=SCRATCH)
    try:
        with os.fdopen(handle, "w+b") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, file)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` last, where the system lets folders be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_text(file: Path, text: str) -> None:
    """Replace ``file`` by ``text`` in one step, see :func:`write_file`."""
    write_file(file, lambda stream: stream.write(text.encode("utf-8")))


def is_replaced(file: Path) -> bool:
    """Whether :func:`write_named` replaces ``file``: a link, and what is no plain file, it writes into."""
    return not file.is_symlink() and (file.is_file() or not file.exists())


def write_named(file: Path, text: str) -> None:
    """Write ``text`` into ``file``, which a user has named, as ``out.json`` or ``/dev/stdout``.

    Raises:
        OSError: It cannot be written; the plain file that was there is then as it was, where it can be
            replaced.
    """
    try:
        if is_replaced(file):
            write_text(file, text)
            return
    except OSError as error:
        # a folder into which nothing may be written, or a file that is mounted there
        if error.errno not in _IN_PLACE or not file.exists():
            raise
    file.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Replace ``file`` by ``content`` as JSON, in one step; NaN and infinities become null."""
    write_text(file, json_text(content))


def overwrite_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON into the room that ``file`` has already; a crash may leave half of it."""
    with file.open("r+", encoding="utf-8") as stream:
        stream.write(json_text(content))
        stream.truncate()


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is no mapping in nested mappings."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def read_json(file: Path) -> dict[str, Any]:
    """The object in ``file``; empty if there is no such file.

    Raises:
        RunFolderError: It is none, or cannot be read.
    """
    return _mapping(file, json.loads, _LARGEST_JSON)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in ``file``, plain YAML; empty if there is no such file.

    Raises:
        RunFolderError: It is none, or cannot be read.
    """
    return _mapping(file, yaml.safe_load, _LARGEST_YAML)


def _mapping(file: Path, parse: Callable[[str], Any], largest: int) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        if (size := file.stat().st_size) > largest:
            raise ValueError(f"it has {size} bytes, which no run's has")
        content = parse(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # bad JSON: ValueErrors
        reason = " ".join(str(error).split())
        raise RunFolderError(f"{file}: cannot be read: {reason}") from error
    return content


def json_text(content: Mapping[str, Any]) -> str:
    """``content`` as the text that :func:`write_json` writes."""
    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: tuples as lists, paths as strings, no NaN."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
