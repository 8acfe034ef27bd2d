"""A few cells that cover much: chosen by rule, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

__all__ = ["Triple", "covering", "rotating"]

Triple = tuple[str, str, str]  # network, habit, way


def covering(
    networks: Sequence[str],
    habits: Sequence[str],
    ways: Callable[[str], Iterable[str]],
    affordable: Callable[[str, str, str], bool],
) -> list[Triple]:
    """Cells in which every network, and every pair of a habit and a way, comes at least once.

    Greedy: for each pair, the network that has been taken least often among those that have the way.

    Args:
        networks: Names, the cheap ones first.
        habits: Names.
        ways: The ways in which a network can be computed.
        affordable: Whether a cell may be taken; a pair without any is left out.
    """
    known = {network: tuple(ways(network)) for network in networks}
    every_way = dict.fromkeys(way for network in networks for way in known[network])
    taken = dict.fromkeys(networks, 0)
    cells = []
    for habit in habits:
        for way in every_way:
            able = [n for n in networks if way in known[n] and affordable(n, habit, way)]
            if not able:
                continue
            network = min(able, key=lambda n: taken[n])
            taken[network] += 1
            cells.append((network, habit, way))
    return cells


def rotating(
    networks: Sequence[str],
    habits: Sequence[str],
    ways: Callable[[str], Sequence[str]],
    affordable: Callable[[str, str, str], bool],
) -> list[Triple]:
    """Cells in which every pair of a network and a habit comes once, the ways taking turns."""
    cells = []
    for row, network in enumerate(networks):
        for column, habit in enumerate(habits):
            able = [way for way in ways(network) if affordable(network, habit, way)]
            cells.append((network, habit, able[(row + column) % len(able)]))
    return cells
