"""What every command does first, however it was started."""

from __future__ import annotations

import os
import sys

__all__ = ["import_from_here"]


def import_from_here() -> None:
    """Let modules of the current folder be imported, as ``python -m`` does and a console script does not.

    Without effect where Python was told to leave that folder out (``-P``, ``PYTHONSAFEPATH``).
    """
    if getattr(sys.flags, "safe_path", False):  # from Python 3.11 on
        return
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
