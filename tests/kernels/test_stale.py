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
    "kernels/cpu/helper": "VALUE = 1\n",
    "kernels/cpu/middle": "from cnnexp.kernels.cpu import (\n    helper as of,\n)\n",
    "kernels/cpu/kernel": "from cnnexp.kernels.cpu.middle import of\n",
    "kernels/cpu/other": "from cnnexp.geometry.pooling import DEAD\n",
    "geometry/pooling": "DEAD = 255\n",
}
KERNELS = ["helper", "kernel", "middle", "other"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    _fill(folder)
    return folder


def _fill(cache: Path) -> None:
    for name in KERNELS:
        cache.joinpath(f"{name}.run-3.py311.nbi").touch()


def _left(cache: Path) -> list[str]:
    return sorted(file.name.partition(".")[0] for file in cache.glob("*.nbi"))


def _write(package: Path, name: str, text: str) -> None:
    package.joinpath(f"{name}.py").write_text(text, encoding="utf-8")


def test_what_reaches_a_changed_file_is_forgotten(package: Path, cache: Path) -> None:
    forget_stale(str(cache), package)
    assert _left(cache) == []  # of an unknown past
    _fill(cache)
    os.utime(package / "kernels" / "cpu" / "helper.py", (1, 1))
    forget_stale(str(cache), package)
    assert _left(cache) == KERNELS  # the same content
    _write(package, "kernels/cpu/helper", "VALUE = 2\n")
    forget_stale(str(cache), package)
    assert _left(cache) == ["other"]
    _write(package, "geometry/pooling", "DEAD = 7\n")
    forget_stale(str(cache), package)
    assert _left(cache) == []
    _fill(cache)
    package.joinpath("kernels", "cpu", "middle.py").unlink()
    forget_stale(str(cache), package)
    assert _left(cache) == ["helper", "other"]


def test_what_a_process_compiles_of_an_old_source_is_forgotten(package: Path, cache: Path) -> None:
    of_old = forget_stale(str(cache), package)
    _write(package, "kernels/cpu/helper", "VALUE = 2\n")
    forget_stale(str(cache), package)  # by another process
    _fill(cache)
    names = ["kernels.cpu.helper", "kernels.cpu.kernel", "kernels.cpu.middle"]
    assert of_old() == names
    assert _left(cache) == ["other"]
    _write(package, "kernels/cpu/helper", "VALUE = 1\n")
    assert of_old() == []


def test_errors_leave_all_as_it_is(package: Path, cache: Path) -> None:
    for content in ("{", "[1]"):
        cache.joinpath("cnnexp_sources.json").write_text(content, encoding="utf-8")
        forget_stale(str(cache), package)
        assert _left(cache) == []
    assert forget_stale(str(cache / "missing"), package)() == []
    package.joinpath("kernels", "cpu", ".#helper.py").symlink_to("nobody@nowhere")
    package.joinpath("kernels", "cpu", "broken.py").write_text("def", encoding="utf-8")
    forget_stale(str(cache), package)
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
