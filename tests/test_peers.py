"""The programs that cnnexp is timed beside run, and what they say is read rightly; not how fast they are."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("peers")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Bright squares, whose place is their class, in the official format."""
    random, raw = np.random.default_rng(0), tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 1536), ("t10k", 200)):
        labels = random.integers(0, 10, count).astype(np.uint8)
        images = random.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            i, j = divmod(int(label), 4)
            image[9 * i : 9 * i + 8, 7 * j : 7 * j + 7] = 255
        sizes = np.array([0x803, count, 28, 28], ">u4").tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(sizes + images.tobytes())
        sizes = np.array([0x801, count], ">u4").tobytes()
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(sizes + labels.tobytes())
    return tmp_path


def _real_mnist() -> Path:
    data = os.environ.get("CNNEXP_DATA", "")
    if not data or not (Path(data) / "MNIST" / "raw").is_dir():
        pytest.skip("needs MNIST: set CNNEXP_DATA to the folder that has it")
    return Path(data).resolve()


QUICK = ("torch, channels_last",)
LONG = (
    *("cnnexp", "cnnexp, bfloat16", "torch, bfloat16", "torch, NCHW", "torch.compile"),
    *("Lightning, torchvision", "Keras, TensorFlow", "JAX, Flax"),
    *("one epoch, channels_last", "one epoch, NCHW", "one epoch, bfloat16", "PyTorch's example"),
)


def test_every_program_is_tried(peers: Any) -> None:
    known = [program.name for study in peers.STUDIES.values() for program in study.programs]
    assert sorted(known) == sorted([*QUICK, *LONG])


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)]
)
def test_a_program_trains_and_says_how_far_it_is(peers: Any, data: Path, name: str) -> None:
    known = {program.name: program for s in peers.STUDIES.values() for program in s.programs}
    program = known[name]
    if not program.file:  # which would not take other files for MNIST
        data = _real_mnist()
        few = ("data.train_size=1500", "data.val_size=200", "data.batch_size=32")
        program = program._replace(way=(*program.way, *few))
    if "torch" not in program.packages and not peers.OF_PEERS.exists():
        pytest.skip("needs `make peers`")
    found = peers.timed(program, data, 2, 0)
    assert found["test_acc"] > 0.3  # it learns: one of ten is guessing
    assert 0 < found["start_up"] < found["total"]
    assert found["first_epoch"] > 0
    assert found["peak_mb"] > 100
    if name != "PyTorch's example":  # which stops when it is good enough
        assert found["later_epochs"] > 0
    assert all(package in peers.versions(program) for package in program.packages)


def test_the_figures_of_a_program_are_the_seconds_of_its_lines(peers: Any) -> None:
    lines = {1.0: "a line of another kind", 2.0: "first step", 5.0: "epoch 1 0.91"}
    lines |= {7.0: "epoch 2 0.95", 7.5: "epoch 2/3 shown", 10.0: "epoch 3 0.97", 11.0: "test 0.96"}
    found = peers.figures([(second, line.split()) for second, line in lines.items()], 12.0)
    assert found == {
        "start_up": 2.0,
        "first_epoch": 3.0,
        "later_epochs": 2.5,
        "total": 12.0,
        "val_acc": 0.97,
        "test_acc": 0.96,
    }


def test_a_program_that_fails_is_told_by_its_last_words(peers: Any, tmp_path: Path) -> None:
    program = peers.Program("plain torch", peers.PLAIN, ("NCHW",))
    with pytest.raises(RuntimeError, match=r"plain torch failed:\n(.|\n)*No such file"):
        peers.timed(program, tmp_path, 1, 0)


def test_the_table_gives_medians_ranges_and_the_ratio_to_cnnexp(peers: Any) -> None:
    about = {"versions": "torch 2", "date": "2026-11-28", "processor": "p", "cores": "2"}
    rows = [
        {"program": name, "round": str(i), "test_acc": "0.99", "total": str(total + i)}
        | dict.fromkeys(("first_epoch", "later_epochs", "trained"), "")
        | {"start_up": "1.0", "peak_mb": "1000", "python": "3.11", **about}
        for i in (1, 2, 3)
        for name, total in (("cnnexp", 8.0), ("other", 18.0))
    ]
    table = peers.table("article", rows).splitlines()
    assert table[2] == (
        "| cnnexp | 1.0 (1.0–1.0) | – | – | – | 10.0 (9.0–11.0) | 1.00 | 99.00 (99.00–99.00) % | 1,000 |"
    )
    assert table[3].split(" | ")[5:7] == ["20.0 (19.0–21.0)", "2.00"]
    assert table[-1].endswith("3 interleaved rounds; 2026-11-28; p, 2 cores; Python 3.11, torch 2.")


def test_an_unknown_program_names_those_that_there_are(
    peers: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["peers.py", "recipes", "--only", "TensorFlow"])
    monkeypatch.setitem(os.environ, "CNNEXP_DATA", str(ROOT))
    with pytest.raises(SystemExit) as stopped:
        peers.main()
    assert stopped.value.code == 2
    assert "no program 'TensorFlow'; there are one epoch, channels_last;" in capsys.readouterr().err
