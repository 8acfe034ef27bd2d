"""Files that are whole or not there, also where the disk is full, and those that a user names."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cnnexp.runs.files import write_named, write_text


def test_no_room_names_the_file_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    file.write_text("before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cnnexp.runs.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left") as refused:
        write_text(file, "after")
    assert refused.value.filename == str(file)
    assert (file.read_text(), os.listdir(tmp_path)) == ("before", ["a.json"])


def test_a_folder_that_is_not_there_is_said_by_the_name_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "a.json"
    with pytest.raises(FileNotFoundError) as refused:
        write_text(file, "after")
    assert refused.value.filename == str(file)


def test_a_link_that_a_user_names_is_written_through(tmp_path: Path) -> None:
    file, link = tmp_path / "a.json", tmp_path / "b.json"
    link.symlink_to(file)
    write_named(link, "of a link")
    assert (link.is_symlink(), file.read_text()) == (True, "of a link")
    write_named(file, "of a file")
    write_named(Path(os.devnull), "nothing")
    assert (link.read_text(), Path(os.devnull).is_file()) == ("of a file", False)
