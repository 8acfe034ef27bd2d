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
