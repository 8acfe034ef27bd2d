"""Which algorithms make a network's whole training step faster: groups of layers, tried one after another.

That a call alone is faster promises something, no more: in a step it meets other caches, other memory
and other layers. So the choice begins with torch's own for every layer; what is promised is grouped, and
a group is taken only if the step of the network gains by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cnnexp.kernels.compilation import clock
from cnnexp.ops import NATIVE
from cnnexp.tuning.paired import Paired, compare

log = logging.getLogger(__name__)

CLEAR = 0.85  # a promise of less of torch's time is clear, and is tried before others
PROMISE = 0.97  # of more it is none
DOUBT = 1.25  # but up to this it is tried where others of the op have kept theirs: a call alone tells so much
_LEAST = 0.003  # nor where all that it promises is less of the step
_SURE = 0.95  # a gain that is this sure needs no second look

Times = Mapping[str, float]
Seconds = Callable[[Mapping[str, str]], float]


@dataclass(frozen=True)
class Group:
    """Layers of one op that one algorithm promises to make faster.

    Attributes:
        op: Their op.
        algorithm: The algorithm.
        layers: Their names.
        gain: The seconds of a step that it promises to save.
        doubtful: Whether nothing is promised, and it is tried only beside others of the op and algorithm.
    """

    op: str
    algorithm: str
    layers: tuple[str, ...]
    gain: float
    doubtful: bool = False


def promises(ops: Mapping[str, str], times: Mapping[str, Times]) -> list[Group]:
    """The groups that are worth a try, best promise first and the doubtful last.

    Args:
        ops: The op of each layer.
        times: For each layer the seconds of its calls by each algorithm that takes them.
    """
    found: dict[tuple[str, str, int], list[tuple[str, float]]] = {}
    for name, seconds in times.items():
        others = sorted(set(seconds) - {NATIVE})
        if not others or not seconds.get(NATIVE):
            continue
        best = min(others, key=seconds.__getitem__)
        ratio = seconds[best] / seconds[NATIVE]
        if ratio < DOUBT:
            key = ops[name], best, (ratio >= CLEAR) + (ratio >= PROMISE)
            found.setdefault(key, []).append((name, seconds[NATIVE] - seconds[best]))
    groups = [
        Group(op, algorithm, tuple(n for n, _ in each), sum(gain for _, gain in each), kind == 2)
        for (op, algorithm, kind), each in found.items()
    ]
    return sorted(groups, key=lambda group: (group.doubtful, -group.gain))


def choose(
    base: Mapping[str, str], groups: Sequence[Group], seconds: Seconds, budget: float
) -> tuple[dict[str, str], float]:
    """The algorithm of each layer, and the time of the step by that of ``base``.

    Args:
        base: By torch's own, every layer.
        groups: What is tried, in this order.
        seconds: Runs a step by the algorithms that it is given, and returns how long it took.
        budget: The seconds after which no further group is tried.
    """
    begin = clock()
    promised = [group for group in groups if not group.doubtful]
    step = min(seconds(base), seconds(base)) if promised else 0.0
    chosen, found = dict(base), Paired(1.0, 1.0, 1.0, 0)
    taken: list[Group] = []
    for group in groups:
        left = budget - (clock() - begin)
        if left < 0 or not _worth_a_try(group, step, taken):
            continue
        trial = {**chosen, **dict.fromkeys(group.layers, group.algorithm)}
        tried = _tried(seconds, trial, chosen, left / 2)
        log.debug(
            "backward auto: %s by %s in %d layers: the step takes %.3f (%.3f to %.3f, %d pairs)",
            *(group.op, group.algorithm, len(group.layers), *tried),
        )
        if tried.faster:
            chosen, found = trial, tried
            taken.append(group)
    if len(taken) > 1 or found.high > _SURE:
        if taken:
            found = _tried(seconds, chosen, base, budget / 2)
        if not found.faster:
            return dict(base), 1.0
    return chosen, found.ratio


def _worth_a_try(group: Group, step: float, taken: Sequence[Group]) -> bool:
    if group.doubtful:
        return any((group.op, group.algorithm) == (each.op, each.algorithm) for each in taken)
    return group.gain >= _LEAST * step


def _tried(
    seconds: Seconds, trial: Mapping[str, str], base: Mapping[str, str], limit: float
) -> Paired:
    try:
        return compare(partial(seconds, trial), partial(seconds, base), limit)
    except Exception as error:  # whatever other people's layers and hooks make of it
        log.debug("backward auto: the step fails with %s", trial, exc_info=error)
        return Paired(float("inf"), float("inf"), float("inf"), 0)
