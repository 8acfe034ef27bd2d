"""Make a package from the files in ``files/``, in which ``my_lab`` stands for its name."""

from __future__ import annotations

import importlib.util
import keyword
import os
import shutil
import sys
import tempfile
from pathlib import Path

from cnnexp.commandline import Misuse

__all__ = ["check_name", "make_package"]

_NAME, _CLASS = "my_lab", "MyLab"
_FILES = Path(__file__).with_name("files")
_RENAMED = {"package": _NAME, "gitignore": ".gitignore"}


def check_name(folder: Path) -> str:
    """The name of the package that is to be made in ``folder``, its last part.

    Raises:
        Misuse: It is no name of a Python package, or is taken; the folder is there, or cannot be made.
    """
    name = folder.name
    if (
        not name.isidentifier()
        or not name.isascii()
        or keyword.iskeyword(name)
        or name != name.lower()
    ):
        raise Misuse(
            f"{name or folder}: must be the name of a Python package: lower-case letters, digits and "
            f"underscores, no digit first, as in my_lab{_better(name)}"
        )
    if os.path.lexists(folder):
        raise Misuse(f"{folder}: is there already; name another one, or remove it")
    if not folder.resolve().parent.is_dir():
        raise Misuse(f"{folder}: there is no folder {folder.resolve().parent}")
    if name in sys.stdlib_module_names or name == "tests" or _is_installed(name):
        raise Misuse(
            f"{name}: there is a module of this name, which it would hide; name another one"
        )
    return name


def _better(name: str) -> str:
    letters = "".join(c if c.isalnum() and c.isascii() else "_" for c in name.lower()).strip("_")
    if not letters or not letters.isidentifier() or keyword.iskeyword(letters) or letters == _NAME:
        return ""
    return f". Did you mean '{letters}'?"


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a module that is being imported has no spec
        return name in sys.modules


def make_package(folder: Path) -> list[Path]:
    """Make the package in ``folder``, whole or not at all.

    Returns:
        The files, as paths within ``folder``.

    Raises:
        Misuse: See :func:`check_name`.
        OSError: It cannot be written.
    """
    name = check_name(folder)
    kind = "".join(part.capitalize() for part in name.split("_"))
    made: list[Path] = []
    scratch = Path(tempfile.mkdtemp(dir=folder.resolve().parent, prefix=f".{name}."))
    try:
        for file in sorted(_FILES.rglob("*.txt")):
            parts = file.relative_to(_FILES).with_suffix("").parts
            within = Path(*(_RENAMED.get(part, part).replace(_NAME, name) for part in parts))
            text = file.read_text(encoding="utf-8").replace(_NAME, name).replace(_CLASS, kind)
            (scratch / within).parent.mkdir(parents=True, exist_ok=True)
            (scratch / within).write_text(text, encoding="utf-8")
            made.append(within)
        scratch.chmod(0o755)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return made
