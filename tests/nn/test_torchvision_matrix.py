"""Networks of torchvision, used as people use them, in every way: as torch's own layers.

``python -m benchmarks.torchvision_matrix`` runs all cells and writes the table that is committed.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from itertools import groupby

import pytest
from torch import nn

import cnnexp.nn
from cnnexp import ops
from tests.conftest import ROOT
from tests.nn.matrix import cells as matrix
from tests.nn.matrix.cells import (
    REFUSED,
    WAYS,
    Cell,
    affordable,
    made_up_times,
    quick,
    run_cells,
    ways_of,
)
from tests.nn.matrix.cover import Triple, covering
from tests.nn.matrix.habits import HABITS
from tests.nn.matrix.networks import FULL, NETWORKS, SMALL

TABLE = ROOT / "benchmarks" / "results" / "torchvision_matrix.csv"


@pytest.fixture(scope="module", autouse=True)
def _auto_by_chance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with made_up_times(tmp_path_factory.mktemp("choices")):
        yield


@pytest.fixture(scope="module")
def chosen() -> list[Triple]:
    return covering(list(SMALL), list(HABITS), ways_of, quick)


def _run(triples: list[Triple]) -> list[Cell]:
    cells: list[Cell] = []
    for (network, habit), group in groupby(sorted(triples), key=lambda triple: triple[:2]):
        cells += run_cells(network, habit, tuple(way for *_, way in group))
    return cells


@pytest.mark.parametrize("habit", HABITS)
def test_a_habit_in_every_way(habit: str, chosen: list[Triple]) -> None:
    cells = _run([triple for triple in chosen if triple[1] == habit])
    assert {cell.way for cell in cells} == ({ops.AUTO} if HABITS[habit].slow else set(WAYS))
    assert not [cell for cell in cells if cell.miss]
    # torch refuses some networks, not all: else the habit says nothing
    assert any(cell.result == "ok" for cell in cells)


def test_the_cells_chosen_have_every_network(chosen: list[Triple]) -> None:
    assert {network for network, *_ in chosen} == set(SMALL)
    slow = sum(habit.slow for habit in HABITS.values())
    assert len(chosen) == (len(HABITS) - slow) * len(WAYS) + slow


@pytest.mark.long
@pytest.mark.parametrize("network", NETWORKS)
def test_the_whole_matrix(network: str) -> None:
    cells = _run(
        [
            (network, habit, way)
            for habit in HABITS
            for way in ways_of(network)
            if affordable(network, habit, way)
        ]
    )
    assert not [cell for cell in cells if cell.miss]


def test_a_wrong_gradient_a_stale_statistic_and_an_error_are_misses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative controls: the matrix can fail."""

    def fault(change: object) -> str:
        monkeypatch.setattr(matrix.cnnexp.nn, "replace_layers", change)
        (cell,) = run_cells("tiny_vgg_bn", "step", ("direct",))
        assert cell.miss
        return cell.result

    replace = cnnexp.nn.replace_layers

    def scaled(module: nn.Module, way: str) -> None:
        replace(module, way)
        bias = list(module.parameters())[-1]  # those before batch normalisation have none to scale
        bias.register_hook(lambda grad: 1.001 * grad)

    def stale(module: nn.Module, way: str) -> None:
        replace(module, way)
        norm = next(m for m in module.modules() if isinstance(m, nn.BatchNorm2d))
        norm.momentum = 0.0

    def raising(module: nn.Module, way: str) -> None:
        raise TypeError("no such way")

    def moody(module: nn.Module, way: str) -> None:
        replace(module, way)
        module.register_forward_pre_hook(lambda *_: warnings.warn("mind the gap", stacklevel=2))

    assert fault(scaled).startswith("∂L/∂")
    assert "running_" in fault(stale)
    assert fault(raising) == "TypeError: no such way"
    assert fault(moody) == "warns: UserWarning: mind the gap"


def test_the_table_has_no_miss_and_is_whole() -> None:
    """Every small network, every habit in every way, at least twelve whole networks; no miss."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert not [
        row for row in rows if row["result"] != "ok" and not row["result"].startswith(REFUSED)
    ]
    cells = {(row["network"], row["habit"], row["way"]) for row in rows}
    assert len({name for name in FULL if any(name == network for network, *_ in cells)}) >= 12
    assert {network for network, *_ in cells} >= set(SMALL)
    pairs = {(habit, way) for habit, use in HABITS.items() for way in WAYS if not use.slow}
    assert {(habit, way) for _, habit, way in cells} >= pairs
