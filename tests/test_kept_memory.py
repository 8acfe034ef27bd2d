"""A process keeps what it has freed: no page is asked for twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnexp import commandline
from cnnexp.kept_memory import keep_freed_memory

NAMES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # which fault for 512 at once
ALWAYS = HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(encoding="ascii")
FAULTS = """
import json, os, resource, subprocess, sys
from cnnexp.kept_memory import keep_freed_memory
{call}
import torch

def faults(tensors, megabytes):
    def once():
        made = [torch.ones(megabytes << 18) for _ in range(tensors)]
    for _ in range(20):  # until the heap is as large as gaps between tensors make it
        once()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        once()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 4

names = {names}
child = subprocess.run([sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))"],
                       stdout=subprocess.PIPE, check=True)
child = json.loads(child.stdout)
print(json.dumps([faults(12, 4), faults(1, 100), {{name: child.get(name) for name in names}}]))
"""
_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")


def _in_a_process(call: str, **variables: str) -> tuple[float, float, dict[str, str | None]]:
    """Faults of 48 MiB in twelve tensors, of 100 MiB in one, and the variables of processes it starts."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call, names=NAMES)],
        env=environment | variables,
        stdout=subprocess.PIPE,
        check=True,
    )
    small, large, inherited = json.loads(done.stdout)
    return small, large, inherited


@_linux
def test_what_is_freed_is_asked_for_once() -> None:
    small, large, inherited = _in_a_process("keep_freed_memory()")
    assert small < 100  # of 12,288 pages
    most = int(inherited[NAMES[0]] or 0)
    assert most in (1 << 30, 1 << 25)
    assert large < 100 or most < 100 << 20  # of 25,600 pages
    assert inherited[NAMES[1]] == str(2**31 - 1)


@_linux
@pytest.mark.parametrize("name", NAMES)
def test_who_has_chosen_otherwise_is_left_alone(name: str) -> None:
    small, large, inherited = _in_a_process("keep_freed_memory()", **{name: "131072"})
    if not ALWAYS:
        assert small > 5_000
        assert large > 25_000
    assert inherited == {each: "131072" if each == name else None for each in NAMES}


@_linux
def test_who_has_tuned_malloc_is_left_alone() -> None:
    tuned = "glibc.malloc.trim_threshold=131072:glibc.malloc.mmap_threshold=131072"
    small, _, inherited = _in_a_process("keep_freed_memory()", GLIBC_TUNABLES=tuned)
    assert small > 5_000 or ALWAYS
    assert inherited == dict.fromkeys(NAMES)


def test_every_command_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(commandline, "keep_freed_memory", lambda: done.append("kept"))
    with pytest.raises(SystemExit):
        commandline.run_command("cnnexp.new", lambda: done.append("acted") or 0)
    assert done == ["kept", "acted"]


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, " ")  # blank counts as unset


@pytest.mark.usefixtures("unset")
def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    keep_freed_memory()
    assert [os.environ[name] for name in NAMES] == [" ", " "]


@pytest.mark.usefixtures("unset")
def test_what_an_older_glibc_refuses_is_asked_for_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:
        @staticmethod
        def mallopt(option: int, size: int) -> int:
            return int(option == -1 or size <= 1 << 25)

    monkeypatch.setattr("ctypes.CDLL", lambda _: Older)
    keep_freed_memory()
    assert [os.environ[name] for name in NAMES] == [str(1 << 25), str(2**31 - 1)]


@_linux
def test_what_a_process_holds_free_counts_as_free() -> None:
    program = """
from pathlib import Path
from cnnexp.kept_memory import keep_freed_memory
keep_freed_memory()
import torch
from cnnexp.tuning.memory import free_bytes
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
made = [torch.ones(1 << 20) for _ in range(50)]
del made
before = resident()
free_bytes()
print(before - resident())
"""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True
    )
    pages = 50 * (4 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert int(done.stdout) > 0.9 * pages
