"""Which algorithms make a network's whole training step faster: groups of layers, tried one after another.

That a call alone is faster promises something, no more: in a step it meets other caches, other memory
and other layers. So the choice begins with torch's own for every layer; what is promised is grouped, and
groups are taken only if the step of the network gains by them.
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
_MUCH = 0.1  # of the step: who promises so much is hardly in the way
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

    def __str__(self) -> str:
        """Return the op, the algorithm and how many layers these are."""
        return f"{self.op} by {self.algorithm} in {len(self.layers)} layers"


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

    All that is promised is tried at once: a long step leaves time for few looks. If the step gains by it,
    each group is left out in turn, the least promise first; else each is tried alone, the best first. The
    doubtful come before those are left out that promise much.

    Args:
        base: By torch's own, every layer.
        groups: What is tried, in this order.
        seconds: Runs a step by the algorithms that it is given, and returns how long it took.
        budget: The seconds after which nothing further is tried.
    """
    search = _Search(base, seconds, budget)
    promised = [group for group in groups if not group.doubtful]
    step = min(seconds(base), seconds(base)) if promised else 0.0
    promised = [group for group in promised if group.gain >= _LEAST * step]
    at_once = len(promised) > 1 and search.take(*promised)
    if at_once:
        for group in reversed(promised):
            if group.gain < _MUCH * step:
                search.drop(group)
    else:
        for place, group in enumerate(promised):
            search.take(group, late=place == 0)
    for group in groups:
        if group.doubtful and search.has_one_like(group):
            search.take(group)
    if at_once:
        for group in reversed(promised):
            if group.gain >= _MUCH * step:
                search.drop(group)
    return search.result()


class _Search:
    """What has been chosen so far, and what it gains.

    Args:
        base, seconds, budget: As of :func:`choose`.
    """

    def __init__(self, base: Mapping[str, str], seconds: Seconds, budget: float) -> None:
        self._base, self._seconds, self._budget = base, seconds, budget
        self._begin = clock()
        self._chosen = dict(base)
        self._taken: list[Group] = []
        # of what is chosen by ``base``; None where steps since have changed the one or moved the other
        self._found: Paired | None = Paired(1.0, 1.0, 1.0, 0)

    def take(self, *groups: Group, late: bool = False) -> bool:
        """Try these groups beside what is chosen, ``late`` one look more, and take them if the step gains."""
        trial = dict(self._chosen)
        for group in groups:
            trial |= dict.fromkeys(group.layers, group.algorithm)
        tried = self._tried(trial, " and ".join(map(str, groups)), late)
        if tried is None or not tried.faster:
            return False
        self._found = tried if self._chosen == self._base else None
        self._chosen, self._taken = trial, [*self._taken, *groups]
        return True

    def drop(self, group: Group) -> None:
        """Try what is chosen without this group, and leave it out if the step gains."""
        if len(self._taken) < 2:
            return
        trial = {**self._chosen, **{name: self._base[name] for name in group.layers}}
        tried = self._tried(trial, f"without {group}", late=False)
        if tried is not None and tried.faster:
            self._found, self._chosen = None, trial
            self._taken.remove(group)

    def has_one_like(self, group: Group) -> bool:
        """Whether another group of this op and algorithm has kept its promise."""
        return any((each.op, each.algorithm) == (group.op, group.algorithm) for each in self._taken)

    def result(self) -> tuple[dict[str, str], float]:
        """What is chosen if it is surely faster, and the time of the step by that of ``base``."""
        found = self._found
        if found is None or (self._taken and found.high > _SURE):
            found = _compared(self._seconds, self._chosen, self._base, self._budget / 2)
        return (self._chosen, found.ratio) if found.faster else (dict(self._base), 1.0)

    def _tried(self, trial: Mapping[str, str], what: str, late: bool) -> Paired | None:
        """The step of ``trial`` by that of what is chosen; None where time is up, unless ``late``."""
        left = self._budget - (clock() - self._begin)
        if left < 0 and not (late and self._budget > 0):
            return None
        tried = _compared(self._seconds, trial, self._chosen, left / 2)
        log.debug("backward auto: %s: the step takes %.3f (%.3f to %.3f, %d pairs)", what, *tried)
        return tried


def _compared(
    seconds: Seconds, trial: Mapping[str, str], base: Mapping[str, str], limit: float
) -> Paired:
    try:
        return compare(partial(seconds, trial), partial(seconds, base), limit)
    except Exception as error:  # whatever other people's layers and hooks make of it
        log.debug("backward auto: the step fails with %s", trial, exc_info=error)
        return Paired(float("inf"), float("inf"), float("inf"), 0)
