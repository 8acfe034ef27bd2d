"""``benchmarks/small_images.py``: both sides compute the same, and operations are those that are needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cnnexp.kernels.cpu import bfloat16
from tests.test_results import SMALL_IMAGES

_SMALL = SMALL_IMAGES.Layer(16, 32, 4, 3, 2), SMALL_IMAGES.Layer(32, 16, 3, 1)


@pytest.mark.parametrize("layer", _SMALL, ids=str)
def test_both_sides_compute_the_same(layer: Any) -> None:
    calls = SMALL_IMAGES.calls(layer, torch.float32)
    assert tuple(calls) == SMALL_IMAGES.PARTS
    for ours, theirs in calls.values():
        torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-3)


def test_operations_of_padding_do_not_count() -> None:
    pixels = 32 * 16  # of 36 pairs of a pixel and a tap
    assert SMALL_IMAGES.operations(SMALL_IMAGES.Layer(20, 30, 2, 3)) == 2 * pixels * 20 * 30
    assert SMALL_IMAGES.operations(SMALL_IMAGES.Layer(20, 30, 2, 1)) == 2 * 32 * 4 * 20 * 30


def test_it_times_each_part_of_each_layer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SMALL_IMAGES, "LAYERS", _SMALL)
    rows = SMALL_IMAGES.measure(2)
    assert len(rows) == 2 * 3 * (2 if bfloat16.AVAILABLE else 1)
    assert all(float(row["ms"]) > 0 and float(row["torch_ms"]) > 0 for row in rows)
    assert capsys.readouterr().out.count(" ms, ") == len(rows)
    table = SMALL_IMAGES.table(rows)
    assert "| 16→32, 4×4, kernel 3×3, stride 2 | float32 | " in table
    assert "2 interleaved rounds" in table
