"""What a private training has spent: ε of the Poisson-subsampled Gaussian, by Google's dp-accounting.

Each step draws every image with probability q (the sampling rate), sums the clipped gradients of those
drawn, and adds Gaussian noise of standard deviation σ·C, C being the clip and σ the noise multiplier.
After the steps of a history, training data sets that differ by one image added or removed give weights
whose distributions P and P' satisfy P(S) ≤ exp(ε)·P'(S) + δ for each set S of weights. Both accountants give
an ε that is at least as large as the true one:

- ``pld`` composes the privacy loss distribution of a step (Doroshenko et al. 2022, arXiv 2207.04380; its
  grid is 10⁻⁴ wide) and is nearly exact;
- ``rdp`` composes Rényi divergences (Mironov et al. 2019, arXiv 1908.10530), which costs less time and
  gives some 10 % more ε.

The curve holds for Poisson sampling alone: shuffled batches are less private than it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

from cnnexp.privacy.extra import privacy_package

__all__ = ["ADJACENCY", "KINDS", "Accountant", "History", "Mechanism"]

KINDS = ("pld", "rdp")
ADJACENCY = "add_or_remove_one"

_UNITS = 10_000  # noise multipliers are sought among multiples of 1/10,000
_MOST_NOISE = 10_000


@dataclass(frozen=True)
class Mechanism:
    """What one step does: the Gaussian mechanism on a Poisson sample.

    Attributes:
        noise_multiplier: Standard deviation of the noise, in units of the clip, ≥ 0.
        sampling_rate: Probability with which an image is in the batch, above 0 and at most 1: the expected
            batch size divided by the number of training images.

    Raises:
        ValueError: A value is out of its range.
    """

    noise_multiplier: float
    sampling_rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(
                f"noise_multiplier={self.noise_multiplier}: must be a finite number ≥ 0; common are 0.5 to 10"
            )
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(
                f"sampling_rate={self.sampling_rate}: must be above 0 and at most 1; divide the expected "
                f"batch size by the number of training images"
            )


History: TypeAlias = Sequence[tuple[Mechanism, int]]


@dataclass(frozen=True)
class Accountant:
    """An accountant of ε at a given δ, for data sets that differ by one image added or removed.

    A history is a sequence of (mechanism, how many steps it took); a resumed training that changes its
    noise or its batches adds a segment. The order of the segments does not matter.

    Attributes:
        kind: ``pld`` or ``rdp``.
        grid: Width of the grid of privacy losses for ``pld``, in (0, 0.1]; ten times the width takes a tenth
            of the time and gives a slightly larger ε. A noise multiplier below 0.5, whose losses are spread
            widely, has a grid that is wider by the square of 0.5 / noise multiplier.

    Raises:
        ValueError: An unknown kind, or a grid out of range.

    Examples:
        >>> mnist = Mechanism(noise_multiplier=1.1, sampling_rate=512 / 55_000)
        >>> round(Accountant("pld").epsilon([(mnist, 1620)], delta=1e-5), 3)
        1.789
        >>> round(Accountant("rdp").epsilon([(mnist, 1620)], delta=1e-5), 3)
        1.985
    """

    kind: str = "pld"
    grid: float = 1e-4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"accountant={self.kind!r}: must be one of {', '.join(KINDS)}")
        if not 0 < self.grid <= 0.1:
            raise ValueError(
                f"grid={self.grid}: must be above 0 and at most 0.1; 1e-4 is nearly exact"
            )

    def epsilon(self, history: History, delta: float) -> float:
        """An upper bound of ε after the steps of ``history``; 0 for no steps, infinite without noise.

        Args:
            history: Mechanisms and how many steps, ≥ 0, each took.
            delta: δ, above 0 and below 1; common is less than 1 / number of training images.

        Raises:
            ValueError: ``delta`` or a number of steps is out of range.
            PrivacyExtraError: The extra ``privacy`` is not installed.
        """
        _check_delta(delta)
        return _epsilon(self, _merged(history), delta)

    def noise_multiplier_for(
        self,
        epsilon: float,
        delta: float,
        sampling_rate: float,
        steps: int,
        spent: History = (),
    ) -> float:
        """The least multiple of 1/10,000 with which ``steps`` further steps stay within ``epsilon``.

        Args:
            epsilon: The budget, above 0.
            delta: δ, above 0 and below 1.
            sampling_rate: Probability with which an image is in a batch.
            steps: How many steps are to be taken, ≥ 1.
            spent: The steps that were taken before.

        Raises:
            ValueError: A value is out of range, ``spent`` has used up the budget, or no noise multiplier up
                to 10,000 suffices.
            PrivacyExtraError: The extra ``privacy`` is not installed.
        """
        _check_budget(epsilon, delta)
        _check_steps(steps, least=1)
        if (used := self.epsilon(spent, delta)) >= epsilon:
            raise ValueError(
                f"epsilon={epsilon}: the steps taken have spent {used:.4g} at delta={delta} already; raise "
                f"epsilon, or stop here"
            )

        def within(units: int, by: Accountant) -> bool:
            taken = (Mechanism(units / _UNITS, sampling_rate), steps)
            return by.epsilon((*spent, taken), delta) <= epsilon

        most = _MOST_NOISE * _UNITS
        rough = _least(lambda units: within(units, self._coarse), _UNITS, _UNITS // 2, most)
        least = _least(lambda units: within(units, self), min(rough, most), 1, most)
        if least > most:
            raise ValueError(
                f"epsilon={epsilon} at delta={delta}: cannot be had by {self.kind} within {steps} steps, not "
                f"even with a noise multiplier of {_MOST_NOISE:,}; raise epsilon or delta, take fewer steps"
                + (", or take the accountant pld" if self.kind != "pld" else "")
            )
        return least / _UNITS

    def steps_within(
        self,
        epsilon: float,
        delta: float,
        mechanism: Mechanism,
        spent: History = (),
        at_most: int = 1_000_000,
    ) -> int:
        """How many further steps of ``mechanism`` stay within ``epsilon``: 0 … ``at_most``.

        Args:
            epsilon: The budget, above 0.
            delta: δ, above 0 and below 1.
            mechanism: What each further step does.
            spent: The steps that were taken before.
            at_most: The number to stop the search at, ≥ 1.

        Raises:
            ValueError: A value is out of range.
            PrivacyExtraError: The extra ``privacy`` is not installed.
        """
        _check_budget(epsilon, delta)
        if at_most < 1:
            raise ValueError(f"at_most={at_most}: must be ≥ 1, the number of steps planned")

        def beyond(steps: int, by: Accountant) -> bool:
            return by.epsilon((*spent, (mechanism, steps)), delta) > epsilon

        if self.epsilon(spent, delta) > epsilon:
            return 0
        rough = _least(lambda steps: beyond(steps, self._coarse), 1, 1, at_most)
        return _least(lambda steps: beyond(steps, self), min(rough, at_most), 1, at_most) - 1

    @property
    def _coarse(self) -> Accountant:
        """An accountant that is fast and nearly as good, to begin a search with."""
        return replace(self, grid=min(0.1, self.grid * 10))


def _least(holds: Callable[[int], bool], guess: int, reach: int, most: int) -> int:
    """The least of 1 … ``most`` for which ``holds`` is true, as it is for all above; ``most`` + 1 for none.

    The search begins at ``guess`` and moves by ``reach``, twice as far each time; the result was tried.
    """
    if holds(guess):
        low, high = max(0, guess - reach), guess
        while low > 0 and holds(low):
            reach *= 2
            low, high = max(0, low - reach), low
    else:
        low, high = guess, min(most, guess + reach)
        while low < most and not holds(high):
            reach *= 2
            low, high = high, min(most, high + reach)
        if low >= most:
            return most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(
            f"delta={delta}: must be above 0 and below 1; take less than 1 / number of training images"
        )


def _check_budget(epsilon: float, delta: float) -> None:
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon={epsilon}: must be a finite number above 0; common are 1 to 10")
    _check_delta(delta)


def _check_steps(steps: int, least: int = 0) -> None:
    if steps < least:
        raise ValueError(f"steps={steps}: must be ≥ {least}, a number of steps of the optimiser")


def _merged(history: History) -> tuple[tuple[Mechanism, int], ...]:
    """The history with one segment for each mechanism that took a step."""
    steps: dict[Mechanism, int] = {}
    for mechanism, count in history:
        _check_steps(count)
        if count:
            steps[mechanism] = steps.get(mechanism, 0) + count
    return tuple(steps.items())


@lru_cache(maxsize=256)
def _epsilon(
    accountant: Accountant, history: tuple[tuple[Mechanism, int], ...], delta: float
) -> float:
    privacy_package("dp_accounting")  # missed before the first step, not after it
    if not history:
        return 0.0
    least_noise = min(mechanism.noise_multiplier for mechanism, _ in history)
    if least_noise == 0:
        return math.inf
    if accountant.kind == "rdp":
        return _renyi(history, delta)
    # without this, a noise multiplier of 0.1 takes gigabytes
    grid = accountant.grid * max(1.0, (0.5 / least_noise) ** 2)
    return float(_composed(history, grid).get_epsilon_for_delta(delta))


def _renyi(history: History, delta: float) -> float:
    dp = privacy_package("dp_accounting")
    accountant = dp.rdp.RdpAccountant()
    for mechanism, steps in history:
        gaussian = dp.GaussianDpEvent(mechanism.noise_multiplier)
        accountant.compose(dp.PoissonSampledDpEvent(mechanism.sampling_rate, gaussian), steps)
    return float(accountant.get_epsilon(delta))


# The distributions are kept because a training asks again and again: that of one step for each further
# epsilon, and those of the segments before the present one.


@lru_cache(maxsize=4)
def _composed(history: tuple[tuple[Mechanism, int], ...], grid: float) -> Any:
    """The privacy loss distribution of a whole history."""
    *before, (mechanism, steps) = history
    if mechanism.sampling_rate == 1:  # k steps equal one whose noise is √k times less, exactly
        last = _of_one_step(mechanism.noise_multiplier / math.sqrt(steps), 1.0, grid)
    else:
        step = _of_one_step(mechanism.noise_multiplier, mechanism.sampling_rate, grid)
        last = step.self_compose(steps)
    return _composed(tuple(before), grid).compose(last) if before else last


@lru_cache(maxsize=4)
def _of_one_step(noise_multiplier: float, sampling_rate: float, grid: float) -> Any:
    distributions = privacy_package("dp_accounting.pld.privacy_loss_distribution")
    return distributions.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=grid,
    )
