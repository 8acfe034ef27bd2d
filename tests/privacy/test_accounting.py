from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from cnnexp.privacy import Accountant, Mechanism, PrivacyExtraError
from cnnexp.privacy.accounting import KINDS, _least
from cnnexp.privacy.extra import privacy_package

dp_accounting: Any = privacy_package("dp_accounting")
PLDAccountant: Any = privacy_package("dp_accounting.pld").PLDAccountant
RdpAccountant: Any = privacy_package("dp_accounting.rdp").RdpAccountant

DELTA = 1e-5
MNIST = Mechanism(1.1, 512 / 55_000)
EPOCH = 108
PLD, RDP, COARSE = Accountant("pld"), Accountant("rdp"), Accountant("pld", grid=1e-3)


def _library(like: Accountant, *segments: tuple[Mechanism, int]) -> float:
    if like.kind == "pld":
        accountant = PLDAccountant(value_discretization_interval=like.grid)
    else:
        accountant = RdpAccountant()
    for mechanism, steps in segments:
        event = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
        accountant.compose(
            dp_accounting.PoissonSampledDpEvent(mechanism.sampling_rate, event), steps
        )
    return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize("accountant", [PLD, RDP], ids=lambda a: a.kind)
def test_epsilon_is_the_librarys(accountant: Accountant) -> None:
    assert accountant.kind in KINDS
    assert accountant.epsilon([(MNIST, EPOCH)], DELTA) == pytest.approx(
        _library(accountant, (MNIST, EPOCH)), rel=1e-9
    )


@pytest.mark.parametrize("accountant", [COARSE, RDP], ids=lambda a: a.kind)
def test_segments_compose(accountant: Accountant) -> None:
    other = Mechanism(0.9, 0.01)
    segments = [(MNIST, EPOCH), (other, 40), (MNIST, 7)]
    together = accountant.epsilon(segments, DELTA)
    assert together == pytest.approx(_library(accountant, *segments), rel=1e-6)
    assert together == accountant.epsilon([(MNIST, EPOCH + 7), (other, 40)], DELTA)
    assert together == pytest.approx(accountant.epsilon(segments[::-1], DELTA), rel=1e-6)


def _root(function: Callable[[float], float]) -> float:
    root: Any = brentq(function, 1e-9, 100, xtol=1e-12)
    return root


def _delta_of_a_gaussian(sigma: float, epsilon: float) -> float:
    """Balle & Wang 2018, arXiv 1805.06530, theorem 8."""
    above = norm.logcdf(1 / (2 * sigma) - epsilon * sigma)
    below = epsilon + norm.logcdf(-1 / (2 * sigma) - epsilon * sigma)
    return math.exp(above) - math.exp(below)


@pytest.mark.parametrize(("noise", "steps"), [(4.0, 1), (4.0, 16), (0.7, 1)])
def test_all_images_in_each_batch_is_the_analytic_gaussian(noise: float, steps: int) -> None:
    sigma = noise / math.sqrt(steps)
    exact = _root(lambda epsilon: _delta_of_a_gaussian(sigma, epsilon) - DELTA)
    found = PLD.epsilon([(Mechanism(noise, 1.0), steps)], DELTA)
    assert exact <= found <= exact + 1e-5
    assert RDP.epsilon([(Mechanism(noise, 1.0), steps)], DELTA) > found


def _delta_of_a_sample(q: float, sigma: float, epsilon: float) -> float:
    """δ of one step: P = (1 − q) N(0, σ²) + q N(1, σ²) against Q = N(0, σ²), and Q against P."""
    removed = sigma**2 * math.log((math.exp(epsilon) - 1 + q) / q) + 0.5

    def above(t: float) -> tuple[float, float]:
        q_above = float(norm.sf(t / sigma))
        return (1 - q) * q_above + q * float(norm.sf((t - 1) / sigma)), q_above

    p, other = above(removed)
    remove = p - math.exp(epsilon) * other
    if math.exp(-epsilon) <= 1 - q:  # the losses of Q against P are at most −log(1 − q)
        return remove
    p, other = above(sigma**2 * math.log((math.exp(-epsilon) - 1 + q) / q) + 0.5)
    return max(remove, (1 - other) - math.exp(epsilon) * (1 - p))


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 1.0), (0.5, 2.0)])
def test_one_step_is_the_integral_over_the_mixture(q: float, sigma: float) -> None:
    exact = _root(lambda epsilon: _delta_of_a_sample(q, sigma, epsilon) - DELTA)
    found = PLD.epsilon([(Mechanism(sigma, q), 1)], DELTA)
    assert exact <= found <= exact * (1 + 1e-4)


# TF-Privacy's tutorial on MNIST (batches of 256 of 60,000) and Abadi et al. 2016, arXiv 1607.00133, give
# ε by older and looser conversions from Rényi divergences.
@pytest.mark.parametrize(
    ("noise", "q", "steps", "published"),
    [(1.3, 256 / 60_000, 3516, 1.19), (1.1, 256 / 60_000, 14_062, 3.01), (4.0, 0.01, 10_000, 1.26)],
)
def test_published_values_are_loose_bounds(
    noise: float, q: float, steps: int, published: float
) -> None:
    taken = [(Mechanism(noise, q), steps)]
    pld, rdp = PLD.epsilon(taken, DELTA), RDP.epsilon(taken, DELTA)
    assert 0.7 * published < pld < rdp < published


def test_pld_is_tighter_than_rdp() -> None:
    taken = [(MNIST, 15 * EPOCH)]
    pld = PLD.epsilon(taken, DELTA)
    assert pld == pytest.approx(1.7891, abs=1e-4)
    assert pld <= COARSE.epsilon(taken, DELTA) <= pld + 0.002
    assert 1.08 < RDP.epsilon(taken, DELTA) / pld < 1.12


@pytest.mark.parametrize("accountant", [COARSE, RDP], ids=lambda a: a.kind)
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(accountant: Accountant) -> None:
    def epsilon(noise: float = 1.1, rate: float = 0.01, steps: int = 500) -> float:
        return accountant.epsilon([(Mechanism(noise, rate), steps)], DELTA)

    for row in (
        [epsilon(steps=steps) for steps in (0, 1, 2, 10, 500, 501)],
        [epsilon(rate=rate) for rate in (0.001, 0.01, 0.011, 0.5)],
        [epsilon(noise=noise) for noise in (4.0, 1.2, 1.1, 0.4, 0.0)],
    ):
        assert row == sorted(set(row))
    assert epsilon(steps=0) == 0 == accountant.epsilon([], DELTA)
    assert epsilon(noise=0) == math.inf
    assert epsilon(noise=0, steps=0) == 0
    assert accountant.epsilon([(MNIST, 1), (Mechanism(0, 0.1), 1)], DELTA) == math.inf


def test_little_noise_takes_little_memory() -> None:
    spent = PLD.epsilon([(Mechanism(0.1, 0.01), 1000)], DELTA)
    assert 1190 < spent < 1200


@pytest.mark.parametrize("accountant", [PLD, RDP], ids=lambda a: a.kind)
def test_the_noise_for_a_budget_is_the_least_that_stays_within_it(accountant: Accountant) -> None:
    rate, steps = 1024 / 60_000, 2360
    noise = accountant.noise_multiplier_for(2.0, DELTA, rate, steps)
    assert accountant.epsilon([(Mechanism(noise, rate), steps)], DELTA) <= 2
    assert accountant.epsilon([(Mechanism(noise - 1e-4, rate), steps)], DELTA) > 2
    assert noise == round(noise, 4)
    if accountant.kind == "pld":  # what others found for this setting
        assert noise == pytest.approx(1.82, abs=0.01)


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(0.1, 0.05, 1000), (60.0, 0.01, 100)])
def test_extreme_budgets(epsilon: float, rate: float, steps: int) -> None:
    noise = COARSE.noise_multiplier_for(epsilon, DELTA, rate, steps)
    assert COARSE.epsilon([(Mechanism(noise, rate), steps)], DELTA) <= epsilon
    assert COARSE.epsilon([(Mechanism(noise * 0.99, rate), steps)], DELTA) > epsilon


def test_steps_within_a_budget() -> None:
    steps = PLD.steps_within(2.0, DELTA, MNIST)
    assert PLD.epsilon([(MNIST, steps)], DELTA) <= 2 < PLD.epsilon([(MNIST, steps + 1)], DELTA)
    assert PLD.steps_within(2.0, DELTA, MNIST, at_most=1000) == 1000
    assert PLD.steps_within(2.0, DELTA, MNIST, [(MNIST, steps - 3)]) == 3
    assert PLD.steps_within(2.0, DELTA, MNIST, spent=[(MNIST, steps + 1)]) == 0
    assert PLD.steps_within(2.0, DELTA, Mechanism(0, 0.1)) == 0


def test_the_noise_for_what_remains_of_a_budget() -> None:
    spent = [(MNIST, 1000)]
    noise = COARSE.noise_multiplier_for(2.0, DELTA, 0.01, 1000, spent)
    assert COARSE.epsilon([*spent, (Mechanism(noise, 0.01), 1000)], DELTA) <= 2
    assert COARSE.epsilon([*spent, (Mechanism(noise - 1e-3, 0.01), 1000)], DELTA) > 2
    with pytest.raises(ValueError, match=r"epsilon=1\.0: the steps taken have spent 1\.4\d+ at"):
        COARSE.noise_multiplier_for(1.0, DELTA, 0.01, 1000, spent)


def test_a_budget_that_no_noise_meets() -> None:
    with pytest.raises(ValueError, match=r"cannot be had by rdp .* or take the accountant pld"):
        RDP.noise_multiplier_for(1.0, DELTA, 1.0, 10**10)


@pytest.mark.parametrize("most", [1, 2, 37, 1000])
def test_the_search_for_the_least(most: int) -> None:
    for true in (1, 2, 36, 37, 38, 999, 1000, 1001):
        for guess in {1, 2, most // 2 + 1, most}:
            found = _least(lambda n, true=true: n >= true, guess, 3, most)
            assert found == min(true, most + 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mechanism(-1, 0.1), r"noise_multiplier=-1: must be a finite number ≥ 0"),
        (lambda: Mechanism(math.nan, 0.1), r"noise_multiplier=nan: must be"),
        (lambda: Mechanism(1, 0), r"sampling_rate=0: must be above 0 and at most 1; divide"),
        (lambda: Mechanism(1, 1.01), r"sampling_rate=1\.01: must be"),
        (lambda: Accountant("prv"), r"accountant='prv': must be one of pld, rdp"),
        (lambda: Accountant(grid=0), r"grid=0: must be above 0"),
        (lambda: PLD.epsilon([(MNIST, 1)], 0), r"delta=0: must be above 0 and below 1; take less"),
        (lambda: PLD.epsilon([(MNIST, -1)], DELTA), r"steps=-1: must be ≥ 0"),
        (lambda: PLD.noise_multiplier_for(0, DELTA, 0.1, 1), r"epsilon=0: must be a finite"),
        (lambda: PLD.noise_multiplier_for(1, DELTA, 2, 1), r"sampling_rate=2: must be"),
        (lambda: PLD.noise_multiplier_for(1, DELTA, 0.1, 0), r"steps=0: must be ≥ 1"),
        (lambda: PLD.steps_within(1, 1, MNIST), r"delta=1: must be"),
        (lambda: PLD.steps_within(1, DELTA, MNIST, at_most=0), r"at_most=0: must be ≥ 1"),
    ],
)
def test_values_out_of_range(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(PrivacyExtraError, match=r'pip install "cnnexp\[privacy\]"'):
        RDP.epsilon([(MNIST, 123_456)], DELTA)


def test_the_library_closes_no_stream_and_warns_of_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    Accountant("rdp").epsilon([(Mechanism(0.31, 0.05), 20)], 1e-5)  # of which the library warns
    assert not caplog.records
    absl = sys.modules["absl.logging"]
    monkeypatch.undo()
    absl.get_absl_handler().close()  # what configuring logging anew does to all handlers
    assert not stream.closed
    assert not sys.stderr.closed
