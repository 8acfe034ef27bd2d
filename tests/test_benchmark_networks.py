"""``benchmarks/networks.py`` at a tiny size, and its tables; no figure of this machine is asserted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnexp.tuning import multiplies_bfloat16
from tests.test_results import NETWORKS

ABOUT = {"rounds": "3", "date": "2026-01-02", "processor": "P", "threads": "2"}
ABOUT |= {"python": "3.11.7", "torch": "2.14.1+cpu"}


def _rows(what: str, kept: float = 0.5, **milliseconds: float) -> list[dict[str, str]]:
    names = {"nchw": "torch NCHW", "last": "torch channels_last", "compiled": "torch.compile"}
    names |= {"low": "torch bfloat16", "low_nchw": "torch bfloat16 NCHW"}
    names |= {"auto": "cnnexp auto", "auto_low": "cnnexp auto, bfloat16"}
    saved = {"auto": str(8 * kept)}
    return [
        {
            "what": what,
            "way": names[way],
            "full_ms": str(ms),
            "saved_mb": saved.get(way, "8"),
            **ABOUT,
        }
        for way, ms in milliseconds.items()
    ]


LOW = multiplies_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize("study", ["networks" if LOW else "networks-float32", "step"])
def test_it_measures_and_makes_a_table(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = NETWORKS.Steps("lenet5", 16, 2)
    tiny = NETWORKS.STUDIES[study]._replace(steps=(small,), compiles=False, bfloat16=None)
    if study == "step":
        tiny = tiny._replace(algorithms=("fused", "auto"))
    monkeypatch.setitem(NETWORKS.STUDIES, study, tiny)
    monkeypatch.setattr(NETWORKS, "RUNS", 2)
    NETWORKS.main([study, "--rounds", "2", "--results", str(tmp_path)])
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{study}-1.csv", f"{study}-2.csv"]
    said = capsys.readouterr().out
    assert "run 2 of 2: lenet5, 16×16, batch 2\n" in said
    made = said[said.index("| ") :].strip()
    assert made == NETWORKS.table(study, NETWORKS.read(study, tmp_path))
    widths = {line.count("|") for line in made.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert made.splitlines()[-1].startswith(
        f"Made by `python benchmarks/networks.py {study}`: 2 runs of 2 rounds; 20"
    )
    row = "`lenet5`, 16×16, batch 2" if study != "step" else "`backward=auto`, the default"
    (line,) = [line for line in made.splitlines() if line.startswith(f"| {row} | ")]
    assert re.search(r"\d+\.\d", line)


def test_the_table_says_where_it_is_faster_and_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [NETWORKS.Steps(f"net{i}", 28, 8) for i in range(3)]
    study = NETWORKS.STUDIES["networks"]._replace(steps=tuple(steps))
    monkeypatch.setitem(NETWORKS.STUDIES, "networks", study)
    runs = [
        _rows("a", nchw=20, last=10, low=5, low_nchw=9, auto=5 * k, auto_low=4)
        + _rows("b", nchw=10, last=20, low=12, low_nchw=11, auto=12, auto_low=11 * k)
        + _rows("c", 1, nchw=10, last=10, compiled=9, low=10, low_nchw=20, auto=9 * k, auto_low=9)
        for k in (1.0, 1.1)
    ]
    lines = NETWORKS.table("networks", runs).splitlines()
    assert lines[2:5] == [
        "| `net0`, 28×28, batch 8 | bfloat16 | 5.0 | 0.80 | faster | 0.50–0.55 | 0.80 | 0.50 |",
        "| `net1`, 28×28, batch 8 | NCHW | 10.0 | 1.10–1.20 | slower | 1.20 | 1.00–1.10 | 0.50 |",
        "| `net2`, 28×28, batch 8 | torch.compile | 9.0 | 1.00 | the same | 0.90–0.99 | 0.90 | 1.00 |",
    ]
    assert lines[-1].endswith(
        "2 runs of 3 rounds; 2026-01-02; P, 2 threads; Python 3.11.7, torch 2.14.1."
    )


def test_without_bfloat16_there_is_no_column_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (NETWORKS.Steps("net", 28, 8),)
    study = NETWORKS.STUDIES["networks-float32"]._replace(steps=steps)
    monkeypatch.setitem(NETWORKS.STUDIES, "networks-float32", study)
    runs = [_rows("a", nchw=20, last=10, auto=5)]
    lines = NETWORKS.table("networks-float32", runs).splitlines()
    assert "bfloat16" not in lines[0]
    assert (
        lines[2] == "| `net`, 28×28, batch 8 | channels_last | 10.0 | 0.50 | faster | 0.50 | 0.50 |"
    )


def test_each_processor_has_its_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, has, own = "networks-float32", "has", "step, networks, tutorials"
    if not LOW:
        other, has, own = "networks", "has no", "networks-float32, tutorials"
    with pytest.raises(SystemExit, match="2"):
        NETWORKS.main([other, "--results", str(tmp_path)])
    said = capsys.readouterr().err
    assert f"{other}: this processor {has} instructions for bfloat16; run one of {own}\n" in said
    assert not list(tmp_path.iterdir())


def test_what_is_not_measured_is_said(tmp_path: Path) -> None:
    nothing: list[Any] = NETWORKS.read("networks", tmp_path)
    assert NETWORKS.table("networks", nothing) == (
        "Not measured yet: `python benchmarks/networks.py networks`."
    )


@pytest.mark.parametrize(("begin", "last"), [("0", 16), ("17", 16), ("4", 3)])
def test_it_begins_with_one_of_the_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], begin: str, last: int
) -> None:
    with pytest.raises(SystemExit):
        NETWORKS.main(["networks", f"--begin={begin}", f"--first={last}", f"--results={tmp_path}"])
    said = f"--begin {begin}: must be one of the networks 1 to {last}"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("first", ["0", "-1", "17"])
def test_a_number_of_networks_that_there_is_not_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        NETWORKS.main(["networks", f"--first={first}", f"--results={tmp_path}"])
    assert f"--first {first}: networks has 1 to 16 networks" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
