"""The machine that a figure was measured on, and a choice was made for."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model, as the system names it in ``info``; elsewhere as Python knows it."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
