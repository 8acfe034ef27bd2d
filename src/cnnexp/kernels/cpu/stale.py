"""What numba keeps of kernels whose sources have changed since is forgotten.

numba looks at the file that a kernel stands in, and at no other: what the kernel calls from elsewhere may
have changed, by an edit or an update in place, and the machine code of before would run on, silently. So a
process compares, when it imports the first kernel, the sources here with those of before, and kernels that
reach a changed file are forgotten; and when it has compiled one, with those that it has imported itself.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["forget_stale"]

_ROOT = Path(__file__).parents[2]  # the package cnnexp
_WATCHED = ("kernels/cpu", "geometry")  # where compiled code and its constants come from
_FILE = "cnnexp_sources.json"  # in numba's folder: what was compiled from

Digests = dict[str, str]  # of each file, by the name of its module in the package


def forget_stale(folder: str, root: Path = _ROOT) -> Callable[[], list[str]]:
    """Delete from ``folder`` what numba keeps of kernels that import a changed file; an error leaves it.

    Args:
        folder: Where numba keeps what it compiles of the kernels.
        root: The package whose files are looked at.

    Returns:
        What does the same for files that have changed since, whose old content this process has imported;
        it returns the modules of the kernels that it forgot.
    """
    begin, looks = _digests(root), _looks(root)
    with suppress(OSError):
        before = _kept(Path(folder, _FILE))
        if begin != before:
            _forget(begin, before, folder, root)
            _keep(begin, Path(folder, _FILE))

    def forget_own() -> list[str]:
        with suppress(OSError):
            if _looks(root) != looks:
                return _forget(_digests(root), begin, folder, root)
        return []

    return forget_own


def _files(root: Path) -> list[Path]:
    """The files that are watched; an editor's own beside them are not."""
    found = [file for part in _WATCHED for file in root.joinpath(part).glob("*.py")]
    return sorted(file for file in found if not file.name.startswith("."))


def _module(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts)


def _digests(root: Path) -> Digests:
    made = {}
    for file in _files(root):
        with suppress(OSError):
            made[_module(file, root)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return made


def _looks(root: Path) -> list[tuple[int, int]]:
    """What tells without reading that a file may have changed."""
    found = []
    for file in _files(root):
        with suppress(OSError):
            found.append((file.stat().st_mtime_ns, file.stat().st_size))
    return found


def _kept(file: Path) -> Digests:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _keep(digests: Digests, file: Path) -> None:
    """Replace ``file`` as a whole; where it cannot be written numba cannot either."""
    own = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        own.write_text(json.dumps(digests), encoding="utf-8")
        own.replace(file)
    finally:
        own.unlink(missing_ok=True)


def _forget(now: Digests, before: Digests, folder: str, root: Path) -> list[str]:
    """Delete what reaches a file that differs; the modules of these kernels."""
    changed = {name for name in {*now, *before} if now.get(name) != before.get(name)}
    stale = _reaching(changed, root)
    for index in Path(folder).glob("*.nbi"):
        if f"kernels.cpu.{index.name.partition('.')[0]}" in stale:
            with suppress(OSError):
                index.unlink()
    return sorted(stale)


def _reaching(changed: set[str], root: Path) -> set[str]:
    """The modules that are ``changed``, or import one that is, or import such a one."""
    imports = {_module(file, root): _imported(file) for file in _files(root)}
    stale, size = set(changed), -1
    while len(stale) > size:
        size = len(stale)
        stale |= {name for name, read in imports.items() if read & stale}
    return stale


def _imported(file: Path) -> set[str]:
    """What ``file`` may import of the package, by the modules' names in it: any name may be a module's."""
    found: set[str] = set()
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            base = node.module.removeprefix("cnnexp.")
            found |= {base, *(f"{base}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            found |= {each.name.removeprefix("cnnexp.") for each in node.names}
    return found
