"""The losses of a learning-rate range test, and which rate they suggest.

Smith, "Cyclical Learning Rates for Training Neural Networks" (2017, arXiv 1506.01186), section 3.3, lets the
rate rise during one short training: the loss falls while the rate is large enough to learn by, and rises once
it is too large. Smith's ramp is linear; an exponential one covers decades.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

SMOOTHING = 0.9  # of the moving average; a point is then mostly of the ten steps before it
DIVERGED = 4.0  # times the least smoothed loss
_LEAST_POINTS = 10
_LEAST_DROP = 0.02  # of the loss at the beginning; less may be chance
_MOST_OF_IT = 0.98
_BEGINNING = 5  # points whose moving average is of too few losses to say anything


@dataclass(frozen=True)
class Ramp:
    """Learning rates that rise exponentially from ``low`` to ``high`` in ``steps`` steps.

    Raises:
        ValueError: The rates do not rise from above 0 to a finite one, or there are too few steps.
    """

    low: float = 1e-6
    high: float = 10.0
    steps: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(
                f"from {self.low:g} to {self.high:g}: the rates must rise from above 0 to a finite one"
            )
        if self.steps < 2 * _LEAST_POINTS:
            raise ValueError(f"steps={self.steps}: must be at least {2 * _LEAST_POINTS}")

    def rate(self, step: int) -> float:
        """The rate of ``step``, counted from 0.

        Examples:
            >>> from cnnexp.lr_range import Ramp
            >>> [round(Ramp(0.01, 1.0, 21).rate(step), 4) for step in (0, 10, 20)]
            [0.01, 0.1, 1.0]
        """
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))


@dataclass
class LossCurve:
    """The loss after a step with each rate, as it comes in.

    Attributes:
        rates: The learning rates, rising.
        losses: The cross-entropy of the batch that followed the step with each, in nats.
        smoothed: Its exponential moving average, m ← β m + (1 − β) loss, divided by 1 − βᵗ, since m begins
            at 0.
        diverged: Whether the last smoothed loss is infinite, NaN, or more than four times the least.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    diverged: bool = False
    _mean: float = 0.0

    def add(self, rate: float, loss: float) -> None:
        """Add a point, and see whether the training has diverged."""
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        self.rates.append(rate)
        self.losses.append(loss)
        self.smoothed.append(self._mean / (1 - SMOOTHING ** len(self.losses)))
        last, least = self.smoothed[-1], min(self.smoothed)
        self.diverged = not math.isfinite(last) or last > DIVERGED * least


@dataclass(frozen=True)
class Suggestion:
    """What a curve suggests.

    Attributes:
        steepest: The rate at which the smoothed loss falls most steeply over the logarithm of the rate.
        minimum: The rate at which the smoothed loss is at its minimum: has made 98 % of its whole fall. The
            least of all may come decades later by chance, where a loss wanders before it diverges, as with
            batch normalisation.
        at_end: Whether the loss was still falling at the last rate, so that a larger one may be better.
    """

    steepest: float
    minimum: float
    at_end: bool

    @property
    def rate(self) -> float:
        """The rate to use: ``steepest`` or a tenth of ``minimum``, the larger one.

        A training by plain SGD goes from learning to divergence within a decade, of which a tenth of the
        minimum lies at the beginning; adaptive methods learn over decades, and are steepest early.
        """
        return max(self.steepest, self.minimum / 10)

    @property
    def rule(self) -> str:
        """Which of the two it is: ``steepest descent`` or ``minimum / 10``."""
        return "steepest descent" if self.rate == self.steepest else "minimum / 10"


def suggest(curve: LossCurve) -> Suggestion | None:
    """What ``curve`` suggests; None if its loss does not fall.

    Examples:
        >>> import math
        >>> from cnnexp.lr_range import LossCurve, suggest
        >>> curve = LossCurve()
        >>> for k in range(61):  # 1e-6 … 1: falls from 1e-4 on, rises after 1e-2
        ...     rate = 10 ** (k / 10 - 6)
        ...     curve.add(rate, 2.0 - min(1.5, max(0.0, k - 20) / 13) + max(0.0, k - 40))
        >>> found = suggest(curve)
        >>> round(math.log10(found.minimum)), 1e-4 < found.steepest < found.minimum
        (-2, True)
    """
    points = [pair for pair in zip(curve.rates, curve.smoothed, strict=True) if _finite(pair)]
    if len(points) < _LEAST_POINTS:
        return None
    rates, losses = zip(*points, strict=True)
    lowest = min(range(_BEGINNING, len(losses)), key=losses.__getitem__)
    start = max(losses[: lowest + 1])
    if lowest <= _BEGINNING or start - losses[lowest] < _LEAST_DROP * start:
        return None
    top = losses.index(start)
    enough = start - _MOST_OF_IT * (start - losses[lowest])
    bottom = next(k for k in range(max(top, _BEGINNING) + 1, len(losses)) if losses[k] <= enough)
    steepest = min(range(_BEGINNING, bottom), key=lambda k: _slope(rates, losses, k))
    at_end = lowest == len(losses) - 1 and not curve.diverged
    return Suggestion(rates[steepest], rates[bottom], at_end)


def _finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[1])


def _slope(rates: Sequence[float], losses: Sequence[float], at: int) -> float:
    """The change of the loss by the logarithm of the rate, by central differences."""
    return (losses[at + 1] - losses[at - 1]) / math.log(rates[at + 1] / rates[at - 1])
