"""Networks of torchvision, used as people use them, in every way: as torch's own layers.

``python -m benchmarks.torchvision_matrix`` runs all cells and writes the table that is committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import pytest

from tests.conftest import ROOT
from tests.nn.matrix.cells import WAYS, Cell, affordable, made_up_times, run_cells, ways_of
from tests.nn.matrix.cover import Triple, covering
from tests.nn.matrix.habits import HABITS
from tests.nn.matrix.networks import SMALL

TABLE = ROOT / "benchmarks" / "results" / "torchvision_matrix.csv"


@pytest.fixture(scope="module", autouse=True)
def _auto_by_chance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with made_up_times(tmp_path_factory.mktemp("choices")):
        yield


@pytest.fixture(scope="module")
def chosen() -> list[Triple]:
    return covering(list(SMALL), list(HABITS), ways_of, affordable)


@pytest.mark.parametrize("habit", HABITS)
def test_a_habit_in_every_way(habit: str, chosen: list[Triple]) -> None:
    own = sorted(triple for triple in chosen if triple[1] == habit)
    assert {way for *_, way in own} == set(WAYS)
    cells: list[Cell] = []
    for network, group in groupby(own, key=lambda triple: triple[0]):
        cells += run_cells(network, habit, tuple(way for *_, way in group))
    assert not [cell for cell in cells if cell.miss]
    # torch refuses some networks, not all: else the habit says nothing
    assert any(cell.result == "ok" for cell in cells)


def test_the_cells_chosen_have_every_network(chosen: list[Triple]) -> None:
    assert {network for network, *_ in chosen} == set(SMALL)
