from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.warm_commands import run_warm

ROOT = Path(__file__).resolve().parents[1]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than cores: many tests wait for processes that they have started."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Compile the kernels once, before pytest-xdist's workers start, instead of once in each of them."""
    if getattr(config.option, "tx", None) and not hasattr(config, "workerinput"):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-m", "tests.compile_kernels"]
        compiling = [
            subprocess.Popen([*command, dtype], cwd=ROOT, env=environment)
            for dtype in ("float32", "float64")
        ]
        for process in compiling:
            process.wait()
        # of the same kernels as float32, and of more: after it, so that no two write an index at a time
        subprocess.run([*command, "bfloat16"], cwd=ROOT, env=environment, check=False)


# Files whose tests stay together: they share one cluster, for which they would wait, one trained network, or
# processes that compile.
_TOGETHER = ("test_slurm.py", "test_readme.py", "test_same_bits.py")
# Files whose tests wait for processes that they start, for minutes; and those that run long by themselves.
_LONGEST = (
    *("test_launcher.py", "test_train_ranks.py", "test_crash.py", "test_train.py", "test_sweep.py"),
    *("test_package.py", "test_faults.py", "test_extending.py", "test_report.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each of pytest-xdist's workers begins with its part of the longest tests: none is left for the end.

    A worker gets a run of the list, and takes from the others' ends when it is through.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    blocks = [[item for item in items if item.path.name == name] for name in _TOGETHER]
    long = [item for item in items if item.path.name in _LONGEST]
    short = [item for item in items if item.path.name not in (*_TOGETHER, *_LONGEST)]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        together = [item for block in blocks[worker::workers] for item in block]
        own = [*together, *long[worker::workers]]
        room = max(0, len(items) // workers - len(own))
        ordered += own + short[:room]
        del short[:room]
    items[:] = ordered + short


def _share_cores() -> None:
    """Under pytest-xdist a worker has its share of the cores, and what it starts has it, too."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
        torch.set_num_threads(threads)
        # of what it starts, and of numba, which reads it when it is imported: threads of two processes
        # on one core wait for each other in loops that leave no time to what they wait for
        os.environ |= {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}


_share_cores()


def _find_mnist() -> Path | None:
    """The folder that holds MNIST/raw: of CNNEXP_DATA, else the developers' shared folder."""
    for place in (os.environ.get("CNNEXP_DATA"), ROOT.parent / "shared" / "data"):
        if place and (Path(place) / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return Path(place).resolve()
    return None


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    root = _find_mnist()
    if root is None:
        pytest.skip("real MNIST is not here: set CNNEXP_DATA to the folder that holds MNIST/raw")
    return root


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What backward=auto measures in tests is no choice of the user's, but every worker's."""
    place = tmp_path_factory.getbasetemp()
    under_xdist = "PYTEST_XDIST_WORKER" in os.environ
    os.environ["CNNEXP_CACHE"] = str((place.parent if under_xdist else place) / "choices")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and the tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder without MNIST in reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNNEXP_DATA", raising=False)
    monkeypatch.delenv("CNNEXP_ALLOW_TARGETS", raising=False)
    return tmp_path


@pytest.fixture
def own_logging() -> Iterator[None]:
    """What a command that runs in this process does to logging ends with the test."""
    root = logging.getLogger()
    handlers, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    yield
    for handler in [h for h in root.handlers if h not in handlers]:
        handler.close()
    root.handlers[:], logging.raiseExceptions = handlers, raises
    root.setLevel(level)


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(empty_folder: Path) -> Command:
    """Run ``python -m cnnexp.<…>`` in the empty folder, as a process of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        if arguments[0].startswith("cnnexp."):
            return run_warm(arguments, {**os.environ, **environment}, empty_folder)
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=empty_folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_logging: None
) -> InProcess:
    """Run the command of a module in this process with ``arguments``: exit code, stdout, stderr."""

    def run(module: ModuleType, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        with pytest.raises(SystemExit) as stop:
            module.main()
        said = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, said.out, said.err

    return run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (file,) = folder.glob("cnnexp-*.whl")
    return file
