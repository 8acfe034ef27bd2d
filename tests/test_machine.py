from __future__ import annotations

import platform
from pathlib import Path

from cnnexp.machine import processor_name


def test_the_model_is_read_where_the_system_names_it(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9R14\nmodel name\t: other\n", "utf-8")
    assert processor_name(info) == "AMD EPYC 9R14"


def test_elsewhere_it_is_what_python_knows(tmp_path: Path) -> None:
    known = platform.processor() or platform.machine()
    assert processor_name(tmp_path / "none") == known
    (tmp_path / "arm").write_text("Features: fp asimd\n", "utf-8")
    assert processor_name(tmp_path / "arm") == known


def test_machines_of_one_name_are_told_apart_by_what_they_compute_with(tmp_path: Path) -> None:
    names = set()
    for flags in ("sse avx avx2", "sse avx avx2 avx512f", "avx2 avx512f avx512_bf16 amx_bf16"):
        info = tmp_path / "cpuinfo"
        info.write_text(f"model name\t: AMD EPYC\nflags\t\t: {flags}\nvmx flags\t: avx\n", "utf-8")
        names.add(processor_name(info))
    assert names == {"AMD EPYC, AVX2", "AMD EPYC, AVX-512", "AMD EPYC, AVX-512, AMX"}
