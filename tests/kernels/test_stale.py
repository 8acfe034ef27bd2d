"""Kernels of numba are compiled anew where something that they call from another file has changed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cnnexp.kernels.cpu.stale import forget_stale
from tests.conftest import ROOT

FILES = {
    "helper": "VALUE = 1\n",
    "middle": "from cnnexp.kernels.cpu.helper import VALUE\n",
    "kernel": "from cnnexp.kernels.cpu.middle import VALUE\n",
    "other": "import math\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        tmp_path.joinpath(f"{name}.py").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in FILES:
        folder.joinpath(f"{name}.run-3.py311.nbi").touch()
    return folder


def _left(cache: Path) -> list[str]:
    return sorted(file.name.partition(".")[0] for file in cache.glob("*.nbi"))


def test_what_reaches_a_changed_file_is_forgotten(package: Path, cache: Path) -> None:
    assert forget_stale(str(cache), package) == sorted(FILES)  # of an unknown past
    assert _left(cache) == []
    for name in FILES:
        cache.joinpath(f"{name}.run-3.py311.nbi").touch()
    assert forget_stale(str(cache), package) == []
    assert _left(cache) == sorted(FILES)
    package.joinpath("middle.py").write_text("VALUE = 22\n", encoding="utf-8")
    assert forget_stale(str(cache), package) == ["kernel", "middle"]
    assert _left(cache) == ["helper", "other"]
    package.joinpath("helper.py").unlink()
    assert forget_stale(str(cache), package) == ["helper"]


def test_a_record_that_cannot_be_read_or_written_is_none(package: Path, cache: Path) -> None:
    cache.joinpath("cnnexp_sources.json").write_text("{", encoding="utf-8")
    assert forget_stale(str(cache), package) == sorted(FILES)
    assert forget_stale(str(cache / "missing"), package) == sorted(FILES)
    assert [file.name for file in cache.iterdir()] == ["cnnexp_sources.json"]


def test_a_kernel_is_compiled_anew_after_an_edit_elsewhere(tmp_path: Path) -> None:
    """By numba itself, with a copy of the package."""
    package = tmp_path / "src" / "cnnexp"
    for file in (ROOT / "src" / "cnnexp").rglob("*.py"):
        to = package / file.relative_to(ROOT / "src" / "cnnexp")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(file.read_bytes())
    kernels = package / "kernels" / "cpu"
    kernels.joinpath("part.py").write_text(_part(1), encoding="utf-8")
    kernels.joinpath("whole.py").write_text(
        textwrap.dedent(
            """
            from numba import njit

            from cnnexp.kernels.cpu.part import part
            from cnnexp.kernels.cpu.vector import COMPILE


            @njit(**COMPILE)
            def whole():
                return part()
            """
        ),
        encoding="utf-8",
    )
    found = []
    for value in (1, 2, 2):
        kernels.joinpath("part.py").write_text(_part(value), encoding="utf-8")
        script = "from cnnexp.kernels.cpu.whole import whole; print(whole())"
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())
    assert found == ["1", "2", "2"]


def _part(value: int) -> str:
    return textwrap.dedent(
        f"""
        from numba import njit

        from cnnexp.kernels.cpu.vector import COMPILE


        @njit(**COMPILE)
        def part():
            return {value}
        """
    )
