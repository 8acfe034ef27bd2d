"""A few cells that cover much: chosen by rule, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

__all__ = ["Triple", "covering", "sparse"]

Triple = tuple[str, str, str]  # network, habit, way


def covering(
    networks: Sequence[str], habits: Sequence[str], ways: Callable[[str], Iterable[str]]
) -> list[Triple]:
    """Cells in which every network, and every pair of a habit and a way, comes at least once.

    Greedy: for each pair, the network that has been taken least often among those that have the way.

    Args:
        networks: Names, the cheap ones first.
        habits: Names.
        ways: The ways in which a network can be computed.
    """
    known = {network: tuple(ways(network)) for network in networks}
    every_way = dict.fromkeys(way for network in networks for way in known[network])
    taken = dict.fromkeys(networks, 0)
    cells = []
    for habit in habits:
        for way in every_way:
            network = min((n for n in networks if way in known[n]), key=lambda n: taken[n])
            taken[network] += 1
            cells.append((network, habit, way))
    return cells


def sparse(
    networks: Sequence[str], habits: Sequence[str], ways: Callable[[str], Sequence[str]]
) -> list[Triple]:
    """Cells in which every pair of a network and a habit comes once, the ways taking turns."""
    cells = []
    for row, network in enumerate(networks):
        known = ways(network)
        for column, habit in enumerate(habits):
            cells.append((network, habit, known[(row + column) % len(known)]))
    return cells
