"""The machine that a figure was measured on, and a choice was made for."""

from __future__ import annotations

import platform
from pathlib import Path

# From the widest on: one name stands for all machines of a cloud, and these decide what is fast on one.
_INSTRUCTIONS = (
    {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"},
    {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16"},
)


def processor_name(info: Path = Path("/proc/cpuinfo")) -> str:
    r"""The processor's model, as the system names it in ``info``, and its widest vector instructions.

    Elsewhere the model as Python knows it.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     info = Path(folder, "cpuinfo")
        ...     _ = info.write_text("model name : EPYC 9R14\nflags : sse avx avx2 avx512f avx512_bf16")
        ...     processor_name(info)
        'EPYC 9R14, AVX-512, AVX512_BF16'
    """
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names, flags = (_values(lines, key) for key in ("model name", "flags"))
    if not names:
        return platform.processor() or platform.machine()
    has = set(" ".join(flags[:1]).split())
    kinds = (next((kind[flag] for flag in kind if flag in has), None) for kind in _INSTRUCTIONS)
    return ", ".join([names[0], *(each for each in kinds if each is not None)])


def _values(lines: list[str], key: str) -> list[str]:
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
