"""``benchmarks/kernels.py`` at a tiny size: every kernel of every kind of layer, timed beside torch."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cnnexp.kernels.cpu import bfloat16
from tests.test_results import KERNELS


def test_it_times_each_kernel_beside_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    KERNELS.main(["--batch", "2", "--rounds", "2", "--csv", str(tmp_path / "kernels.csv")])
    with (tmp_path / "kernels.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    pairs = {f"bfloat16 narrow {name}" for name in ("forward", "grad_weight", "grad_input")}
    assert {row["kernel"] for row in rows} - (pairs if bfloat16.AVAILABLE else set()) == {
        "forward",
        "forward_few_channels",
        "forward_winograd",
        "narrow max_forward",
        "narrow max_grad_input",
        "narrow max_grad_weight",
        "winners_grad_input",
        "winners_grad_weight",
        "winners_squared_norms",
    }
    assert (pairs <= {row["kernel"] for row in rows}) == bfloat16.AVAILABLE
    assert all(float(row["kernel_ms"]) > 0 and float(row["torch_ms"]) > 0 for row in rows)
    assert capsys.readouterr().out.count(" ms, torch ") == len(rows)
