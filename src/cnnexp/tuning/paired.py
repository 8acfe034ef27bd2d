"""Whether one of two ways is faster: ratios of times taken in pairs, looked at until they tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cnnexp.kernels.compilation import clock

LOOKS = (5, 9, 15, 25, 41)  # after so many pairs the ratios are looked at
_DOUBT = 0.1  # the chance that the true median lies outside of the interval
NOTHING = 0.003  # a gain of less is none


class Paired(NamedTuple):
    """The time of one way by that of the other.

    Attributes:
        ratio: The median of the pairs' ratios.
        low, high: An interval in which the true median lies with a probability of at least 90 %.
        pairs: How many there were.
    """

    ratio: float
    low: float
    high: float
    pairs: int

    @property
    def faster(self) -> bool:
        """Whether the first way is faster, by more than what chance makes of the times."""
        return self.high < 1.0 and self.ratio < 1.0 - NOTHING


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of ``values`` around the median that holds the true one with 90 % probability.

    The number of values below the true median is binomial with p = ½, whatever the distribution of the
    noise; so the k-th smallest and the k-th largest enclose it but for 2·P(fewer than k below). With less
    than 5 values no pair does, and the interval is open.

    Examples:
        >>> from cnnexp.tuning.paired import interval
        >>> interval([0.8, 0.7, 0.9, 0.6, 1.5])
        (0.6, 1.5)
        >>> interval([1, 2, 3, 4, 5, 6, 7, 8, 9])
        (2, 8)
    """
    ordered, n = sorted(values), len(values)
    below, k = 0.0, 0
    while k < n and 2 * (below + math.comb(n, k) / 2**n) <= _DOUBT:
        below += math.comb(n, k) / 2**n
        k += 1
    if k == 0:
        return 0.0, math.inf
    return ordered[k - 1], ordered[n - k]


def compare(
    one: Callable[[], float], other: Callable[[], float], seconds: float = math.inf
) -> Paired:
    """The time of ``one`` by that of ``other``, from pairs taken one after the other.

    The pairs begin with each in turn, so that a drift of the machine favours none. After 5, 9, 15, 25
    and 41 pairs they are looked at: no more follow when ``one`` is faster, or its gain is none, as far as
    chance allows to say.

    Args:
        one, other: Run a way once and return the seconds that it took.
        seconds: No further look after so long; the first comes in any case.
    """
    begin, ratios = clock(), []
    found = Paired(1.0, 0.0, math.inf, 0)
    for look in LOOKS:
        while len(ratios) < look:
            if len(ratios) % 2:
                below, above = other(), one()
            else:
                above, below = one(), other()
            ratios.append(above / below)
        found = Paired(statistics.median(ratios), *interval(ratios), len(ratios))
        taken = clock() - begin
        none = found.low > 1.0 - NOTHING or (look > LOOKS[0] and found.ratio > 1.0 - NOTHING)
        if found.faster or none or taken > seconds:
            break
    return found
