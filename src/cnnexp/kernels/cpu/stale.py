"""What numba keeps of kernels whose sources have changed since is forgotten.

numba looks at the file that a kernel stands in, and at no other: what the kernel calls from elsewhere may
have changed, by an edit or an update in place, and the machine code of before would run on, silently. So the
changes of all files here are looked for once a process, and kernels that reach a changed one are forgotten.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

__all__ = ["forget_stale"]

_PACKAGE = Path(__file__).parent
_IMPORTED = re.compile(r"\bcnnexp\.kernels\.cpu\.(\w+)")
_FILE = "cnnexp_sources.json"  # in numba's folder: what was compiled from

Stamps = dict[str, list[int]]


def forget_stale(folder: str, package: Path = _PACKAGE) -> list[str]:
    """Delete from ``folder`` what numba keeps of kernels that import a file of ``package`` that has changed.

    Returns:
        The names of these kernels' files, without suffixes.
    """
    now, before = _stamps(package), _kept(Path(folder, _FILE))
    if now == before:
        return []
    changed = {name for name in {*now, *before} if now.get(name) != before.get(name)}
    stale = _reaching(changed, package)
    for index in Path(folder).glob("*.nbi"):
        if index.name.partition(".")[0] in stale:
            index.unlink(missing_ok=True)
    _keep(now, Path(folder, _FILE))
    return sorted(stale)


def _stamps(package: Path) -> Stamps:
    """When each file was changed last, and its size."""
    with os.scandir(package) as files:
        found = [(file.name, file.stat()) for file in files if file.name.endswith(".py")]
    return {name.removesuffix(".py"): [s.st_mtime_ns, s.st_size] for name, s in found}


def _kept(file: Path) -> Stamps:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _keep(stamps: Stamps, file: Path) -> None:
    """Replace ``file`` as a whole; where it cannot be written numba cannot either."""
    own = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        own.write_text(json.dumps(stamps), encoding="utf-8")
        own.replace(file)
    except OSError:
        own.unlink(missing_ok=True)


def _reaching(changed: set[str], package: Path) -> set[str]:
    """The files that are ``changed``, or import one that is, or import such a one."""
    imports = {
        file.stem: set(_IMPORTED.findall(file.read_text(encoding="utf-8")))
        for file in package.glob("*.py")
    }
    stale, size = set(changed), -1
    while len(stale) > size:
        size = len(stale)
        stale |= {name for name, read in imports.items() if read & stale}
    return stale
